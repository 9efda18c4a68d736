"""The nodes that ONNX Runtime can run in integers by fusing QuantizeLinear/DequantizeLinear (QDQ) pairs around them.

A *fused op* is a group of nodes that the runtime runs as one kernel, such as a convolution and the rectifier behind it.
The values between fused ops are quantized.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from onnxopt.files.set_aside import elements_of
from onnxopt.graph.normalise import subgraphs


class QdqSupport(Enum):
    """What a fused op needs to run in integers."""

    NONE = auto()
    """It cannot run in integers."""
    FULL = auto()
    """Inputs and output are quantized, each with its own parameters."""
    FLOAT_OUTPUT = auto()
    """Inputs are quantized; the output may be, or may stay float."""
    PASSTHROUGH = auto()
    """The output has the quantization parameters of the input: elements are moved, or the largest is taken."""


_WEIGHTED = {"Conv": QdqSupport.FULL, "Gemm": QdqSupport.FLOAT_OUTPUT, "MatMul": QdqSupport.FLOAT_OUTPUT}
_COMBINING = frozenset(("Add", "Mul", "Concat"))
_CHANGING = frozenset(("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"))
_MOVING = frozenset((
    "DepthToSpace", "Flatten", "Identity", "MaxPool", "Pad", "Reshape", "Slice", "SpaceToDepth", "Squeeze", "Transpose",
    "Unsqueeze",
))  # fmt: skip
_QUANTIZED = frozenset((
    "ConvInteger", "DequantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "QGemm", "QuantizeLinear",
))  # fmt: skip
_ABSORBED = frozenset(("Relu", "Clip"))
"""Operators that become part of the preceding node's quantization, which saturates at the same bound."""


@dataclass(frozen=True, slots=True)
class FusedOp:
    """Nodes of the main graph that run as one kernel."""

    name: str
    """Name of its first node, or of its output if that node has none."""
    op: str
    kind: QdqSupport
    inputs: tuple[str, ...]
    """The values that it computes with, without constants."""
    output: str
    """Its first output."""
    weight: str | None
    """The initializer that has to be integer for this to run in integers."""
    bias: str | None
    first: int
    """Index of its first node in the main graph."""


def fused_ops(model: onnx.ModelProto) -> list[FusedOp]:
    """All fused ops of the main graph, in graph order."""
    graph, constants = model.graph, {tensor.name: tensor for tensor in model.graph.initializer}
    readers: defaultdict[str, list[NodeProto]] = defaultdict(list)
    for inner in subgraphs(graph):
        for node in inner.node:
            for name in dict.fromkeys(node.input):
                readers[name].append(node)
    results = {value.name for value in graph.output}
    makers = {name: node for node in graph.node for name in node.output}
    behind: dict[str, str] = {}  # a node's output -> that of the node fused into it
    for node in graph.node:
        x = node.input[0] if node.input else ""
        maker = makers.get(x)
        absorbs = maker is not None and (maker.op_type in _WEIGHTED or maker.op_type == "Add") and not maker.domain
        alone = len(readers[x]) == 1 and x not in results and x not in behind.values()
        bounded = node.op_type in _ABSORBED and all(name in constants for name in node.input[1:] if name)
        if absorbs and alone and bounded and not node.domain:
            behind[x] = node.output[0]
    found = []
    for index, node in enumerate(graph.node):
        if not node.output or node.output[0] in behind.values():
            continue
        kind, weight, bias = _kind(node, constants, readers)
        inputs = tuple(dict.fromkeys(name for name in node.input if name and name not in constants))
        if kind is QdqSupport.PASSTHROUGH:
            inputs = inputs[:1]  # the others are shapes
        output = behind.get(node.output[0], node.output[0])
        found.append(FusedOp(node.name or output, node.op_type, kind, inputs, output, weight, bias, index))
    return found


def _kind(
    node: NodeProto, constants: Mapping[str, TensorProto], readers: Mapping[str, list[NodeProto]]
) -> tuple[QdqSupport, str | None, str | None]:
    """How a node can run in integers, and its weight and bias."""
    nothing = QdqSupport.NONE, None, None
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    constant = [name in constants for name in node.input]
    if node.domain not in ("", "ai.onnx") or len(node.output) != 1:
        return nothing
    op = node.op_type
    if op in _WEIGHTED and len(node.input) > 1:
        weight, bias = node.input[1], node.input[2] if len(node.input) > 2 and node.input[2] else None
        plain = all(attributes.get(key, 1.0) == 1.0 for key in ("alpha", "beta")) and not attributes.get("transA")
        mine = not constant[0] and constant[1] and len(readers[weight]) == 1
        usable = mine and constants[weight].data_type == TensorProto.FLOAT and len(constants[weight].dims) >= 2
        if not (usable and plain and (op == "Conv" or len(constants[weight].dims) == 2)):
            return nothing
        if bias is not None and not (
            bias in constants
            and len(readers[bias]) == 1
            and list(constants[bias].dims) == [_outputs(op, constants[weight], attributes)]
        ):
            return nothing
        return _WEIGHTED[op], weight, bias
    if op in _COMBINING:
        return nothing if any(constant) else (QdqSupport.FULL, None, None)
    if op in _CHANGING:
        return QdqSupport.FULL, None, None
    if op == "Pad":
        return (QdqSupport.PASSTHROUGH, None, None) if _pads_zeros(node, constants, attributes) else nothing
    if op in _MOVING and not any(name and not known for name, known in zip(node.input[1:], constant[1:], strict=True)):
        return QdqSupport.PASSTHROUGH, None, None
    return nothing


def _outputs(op: str, weight: TensorProto, attributes: Mapping[str, object]) -> int:
    return int(weight.dims[0 if op == "Conv" or attributes.get("transB") else 1])


def _pads_zeros(node: NodeProto, constants: Mapping[str, TensorProto], attributes: Mapping[str, object]) -> bool:
    """Whether this pads with the constant 0, along any number of axes."""
    if attributes.get("mode", b"constant") != b"constant" or len(node.input) < 2 or node.input[1] not in constants:
        return False
    if len(node.input) > 3 and node.input[3]:
        return False
    if len(node.input) < 3 or not node.input[2]:
        return True
    value = constants.get(node.input[2])
    return value is not None and not np.any(elements_of(value))


def is_quantized(model: onnx.ModelProto) -> bool:
    """Whether values of the main graph are quantized already, by QDQ pairs or integer operators."""
    return any(node.op_type in _QUANTIZED or node.op_type.startswith("QLinear") for node in model.graph.node)


def runs_in_integers(unit: FusedOp, rounded: Mapping[str, object], weights: Mapping[str, object]) -> bool:
    """Whether the runtime runs a fused op in integers if these values are quantized and these weights are integers."""
    if unit.kind is QdqSupport.NONE or not all(name in rounded for name in unit.inputs):
        return False
    if unit.weight is not None and unit.weight not in weights:
        return False
    return unit.kind is QdqSupport.FLOAT_OUTPUT or unit.output in rounded
