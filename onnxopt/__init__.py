"""onnxopt makes ONNX models small: compressed, entropy-coded weights that run in stock ONNX Runtime."""

from importlib.metadata import version

from onnxopt.api import apply, optimize, plan
from onnxopt.archive import decompress, inspect, verify
from onnxopt.contract import Contract
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.evaluation import Evaluation, evaluate
from onnxopt.result import Result
from onnxopt.runtime import load, register

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
