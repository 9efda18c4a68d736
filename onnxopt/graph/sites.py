"""The weights of a graph that passes may act on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import onnx

from onnxopt.graph.roles import is_vector, output_axis
from onnxopt.graph.walk import subgraphs
from onnxopt.native import PAIRED

MIN_QUANTIZED = 16
"""Elements: a smaller weight costs more in the container's table than quantization saves."""
FLOATS = tuple(map(onnx.TensorProto.DataType.Value, ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")))


@dataclass(frozen=True, slots=True)
class Site:
    """One weight that a pass may act on."""

    path: str
    """The initializer's name."""
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses it."""
    axis: int | None
    """The axis of the node's outputs; None for a vector with one number for each output."""
    bytes: int
    """Its size in the source model."""

    @property
    def elements(self) -> int:
        """Number of weights."""
        return prod(self.shape)


def float_sites(model: onnx.ModelProto) -> Iterator[Site]:
    """Every float weight, bias or slope that is large enough to store, in graph order; none that the model returns."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    seen = {value.name for value in model.graph.output}
    for graph in subgraphs(model.graph):
        for node in graph.node:
            for index, name in enumerate(node.input):
                tensor = tensors.get(name)
                if tensor is None or name in seen or tensor.data_type not in FLOATS:
                    continue
                axis = output_axis(node, index, len(tensor.dims))
                if prod(tensor.dims) < MIN_QUANTIZED or (axis is None and not is_vector(node, index, tensor)):
                    continue
                seen.add(name)
                yield Site(name, tuple(tensor.dims), node.op_type, axis, tensor_bytes(tensor))


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    return -(-prod(tensor.dims) // 2) if dtype in PAIRED else prod(tensor.dims) * int(dtype.itemsize)
