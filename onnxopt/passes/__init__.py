"""Every module in `quantise/` and `low_rank/` that holds a pass registers it: dropping a file there is all."""

from importlib import import_module
from pkgutil import walk_packages

from onnxopt.passes.base import Pass, Skip
from onnxopt.passes.structural import Structural

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

STRUCTURAL: dict[str, type[Structural]] = {cls.name: cls for cls in Structural.__subclasses__()}
"""Passes that make other layers of one, by name."""
QUANTIZING: dict[str, type[Pass]] = {cls.name: cls for cls in Pass.__subclasses__() if cls is not Structural}
"""Passes that change what is stored of a weight, by name."""
PASSES: dict[str, type[Pass]] = {**STRUCTURAL, **QUANTIZING}
"""Every pass by its name."""

__all__ = ["PASSES", "QUANTIZING", "STRUCTURAL", "Pass", "Skip", "Structural"]
