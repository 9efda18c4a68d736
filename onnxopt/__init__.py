"""onnxopt makes ONNX models small: compressed, entropy-coded weights that run in stock ONNX Runtime."""

from importlib.metadata import version

from onnxopt.api import apply, optimize, plan
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.measure.evaluation import Evaluation, evaluate
from onnxopt.results.result import Result
from onnxopt.runtime.archive import decompress, inspect, verify
from onnxopt.runtime.session import load, register
from onnxopt.spec.contract import Contract

__version__ = version("onnxopt")

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
