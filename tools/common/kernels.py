"""What ONNX Runtime makes of a model on this processor: how many of its layers run as INT8 kernels."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime

import onnxopt
from common import realdata
from onnxopt.graph import is_compressed

INTEGER = {
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "MatMulNBits", "QGemm",
    "QLinearConv", "QLinearMatMul",
}  # fmt: skip
"""Operators that multiply integers."""
FLOAT = {"Conv", "ConvTranspose", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}
"""Operators that multiply in float."""


@dataclass(frozen=True, slots=True)
class Kernels:
    """Counts of nodes."""

    integer: int
    """Of INTEGER."""
    layers: int
    """Of INTEGER and FLOAT."""
    dequantized: int
    """DequantizeLinear that remain nodes of their own."""


def executed(path: Path) -> Counter[str]:
    """Operators of a model, plain or compressed, after ONNX Runtime's optimizations; subgraphs do not count."""
    with tempfile.TemporaryDirectory() as folder:
        plain, optimized = Path(folder) / "plain.onnx", Path(folder) / "optimized.onnx"
        if is_compressed(onnx.load(path)):
            onnxopt.decompress(path, plain)
        else:
            plain = path
        options = realdata.options()
        options.optimized_model_filepath = str(optimized)
        onnxruntime.InferenceSession(str(plain), options, providers=["CPUExecutionProvider"])
        return Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)


def kernels(path: Path) -> Kernels:
    """Counts the kernels of a model, plain or compressed."""
    ops = executed(path)
    integer, floats = (sum(ops[op] for op in kind) for kind in (INTEGER, FLOAT))
    return Kernels(integer, integer + floats, ops["DequantizeLinear"])
