"""Every module in this folder is a pass; dropping a file here registers it."""

from importlib import import_module
from pkgutil import iter_modules

from onnxopt.passes.base import Pass, Skip

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

PASSES: dict[str, type[Pass]] = {cls.name: cls for cls in Pass.__subclasses__()}
"""Every pass by its name."""

__all__ = ["PASSES", "Pass", "Skip"]
