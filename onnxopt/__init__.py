"""onnxopt makes ONNX models small: compressed, entropy-coded weights that run in stock ONNX Runtime."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxopt.api import apply, optimize, plan
    from onnxopt.errors import Missed, OnnxoptError
    from onnxopt.measure.evaluation import Evaluation, evaluate
    from onnxopt.results.result import Result
    from onnxopt.runtime.archive import decompress, inspect, verify
    from onnxopt.runtime.session import load, register
    from onnxopt.spec.contract import Contract

    __version__: str

__all__ = [
    "Contract",
    "Evaluation",
    "Missed",
    "OnnxoptError",
    "Result",
    "apply",
    "decompress",
    "evaluate",
    "inspect",
    "load",
    "optimize",
    "plan",
    "register",
    "verify",
]
_MODULES = {
    "api": ("apply", "optimize", "plan"),
    "errors": ("Missed", "OnnxoptError"),
    "measure.evaluation": ("Evaluation", "evaluate"),
    "results.result": ("Result",),
    "runtime.archive": ("decompress", "inspect", "verify"),
    "runtime.session": ("load", "register"),
    "spec.contract": ("Contract",),
}


def __getattr__(name: str) -> Any:
    """Imports what is asked for: a program that only loads models needs none of what compresses them."""
    if name == "__version__":
        return import_module("importlib.metadata").version("onnxopt")
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"{__name__}.{module}"), name)
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
