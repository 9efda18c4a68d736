"""What an input of a node is to it: a weight with an axis of outputs, a vector, or nothing that a pass may change.

Shapes are those of the ONNX operator reference and of ONNX Runtime's contrib operators (docs/ContribOperators.md).
"""

from __future__ import annotations

from math import prod

import onnx

from onnxopt.graph.functions import RUNTIME, STANDARD

_VECTORS = {
    ("", "BatchNormalization"): (1, 2), ("", "Conv"): (2,), ("", "ConvTranspose"): (2,), ("", "Gemm"): (2,),
    ("", "LSTM"): (3,), ("", "GRU"): (3,), ("", "RNN"): (3,), ("", "PRelu"): (1,),
    (RUNTIME, "FusedConv"): (2,), (RUNTIME, "FusedGemm"): (2,), (RUNTIME, "Attention"): (2,),
}  # fmt: skip
"""Operators with scales, biases or slopes, and the indices of these inputs."""
_BLOCK_SCALES = {("", "DequantizeLinear"): 1, (RUNTIME, "MatMulNBits"): 2, (RUNTIME, "GatherBlockQuantized"): 2}
"""Operators on blocks of small integers, and the index of their scales. Those of whole tensors and of channels are few,
and may have to fit those of other values."""
_SHAPE_OPS = frozenset(("Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that only move the elements of a weight."""
_RECURRENT = ("LSTM", "GRU", "RNN")


def is_vector(node: onnx.NodeProto, index: int, tensor: onnx.TensorProto) -> bool:
    """One number for each channel (as many elements as its longest dimension has, or LSTM's B[dirs, 8H]) or block."""
    domain, op = "" if node.domain in STANDARD else node.domain, node.op_type
    if _BLOCK_SCALES.get((domain, op)) == index:
        return op != "DequantizeLinear" or any(a.name == "block_size" and a.i for a in node.attribute)
    if index not in _VECTORS.get((domain, op), ()) and not ((domain, op) == ("", "Add") and len(tensor.dims) == 1):
        return False
    return max(tensor.dims) == prod(tensor.dims) or op in _RECURRENT


def output_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The axis of a weight's outputs; None if the operand is not a weight."""
    if rank < 2:
        return None
    if node.domain == RUNTIME:
        return _fused_axis(node, index, rank)
    return _standard_axis(node, index, rank) if node.domain in STANDARD else None


def _standard_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    match (node.op_type, index):
        case ("Conv" | "Gather" | "GatherElements" | "ConvInteger" | "DeformConv", _) if index == _data_input(node):
            return 0
        case ("ConvTranspose", 1) | ("LSTM" | "GRU" | "RNN", 1 | 2):
            return 1
        case ("Gemm", 0 | 1):
            return 1 - index if flag(node, ("transA", "transB")[index]) else index
        case ("MatMul", 0 | 1):
            return rank - 2 + index
        case (op, 0) if op in _SHAPE_OPS:
            return 0
    return None


def _fused_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    match (node.op_type, index):
        case ("FusedConv", 1):
            return 0
        case ("Attention", 1):  # [inputs, 3 outputs]
            return rank - 1
        case ("EmbedLayerNormalization", 2 | 3 | 4):  # tables of words, positions and segments
            return 0
        case ("FusedMatMul" | "FusedGemm", 0 | 1) if not flag(node, "transBatchA") and not flag(node, "transBatchB"):
            return rank - 2 + (1 - index if flag(node, ("transA", "transB")[index]) else index)
    return None


def flag(node: onnx.NodeProto, name: str) -> bool:
    """Whether an attribute is there and not 0."""
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


def _data_input(node: onnx.NodeProto) -> int:
    return 0 if node.op_type.startswith("Gather") else 1
