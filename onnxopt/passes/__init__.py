"""Every module in `quantise/` and `low_rank/` that holds a pass registers it: dropping a file there is all."""

from importlib import import_module
from itertools import pairwise
from pkgutil import walk_packages

from onnxopt.errors import OnnxoptError, meant
from onnxopt.passes.base import Pass, Skip
from onnxopt.passes.structural import Structural
from onnxopt.spec.plan import Step

for _module in walk_packages(__path__, f"{__name__}."):
    import_module(_module.name)

STRUCTURAL: dict[str, type[Structural]] = {cls.name: cls for cls in Structural.__subclasses__()}
"""Passes that make other layers of one, by name."""
QUANTIZING: dict[str, type[Pass]] = {cls.name: cls for cls in Pass.__subclasses__() if cls is not Structural}
"""Passes that change what is stored of a weight, by name."""
PASSES: dict[str, type[Pass]] = {**STRUCTURAL, **QUANTIZING}
"""Every pass by its name."""


def passes_of(step: Step) -> list[Pass]:
    """The decisions of a step and of those that follow it.

    Raises OnnxoptError if one names no pass or has arguments that the pass does not take, or if one that makes other
    layers follows another step.
    """
    found = [_decision(one) for one in step]
    for before, one in pairwise(step):
        if one.name in STRUCTURAL:
            raise OnnxoptError(f"{one.name} stands after {before.name}; it makes other layers, so it has to come first")
    return found


def _decision(step: Step) -> Pass:
    if step.name not in PASSES:
        raise OnnxoptError(
            f"no pass is called {step.name!r}; there is {', '.join(sorted(PASSES))}{meant(step.name, PASSES)}"
        )
    return PASSES[step.name].from_step(step)


__all__ = ["PASSES", "QUANTIZING", "STRUCTURAL", "Pass", "Skip", "Structural", "passes_of"]
