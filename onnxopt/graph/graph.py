"""The graph as passes see it: weights by path, their sites, and leaves to be stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.graph.normal import normalise, subgraphs
from onnxopt.leaf import STORABLE, Array, Leaf

MIN_STORED = 64
"""Elements: a smaller tensor stays in the inner model, where deflate sees it beside its like."""
MIN_STORED_INTEGERS = 1024
"""Elements of an int32 or int64 tensor: smaller ones are shapes and axes, which the runtime wants to see at load."""

LOCATION = "onnxopt"
"""Where inner models say their weights lie; no such file exists, the loader hands them over."""


@dataclass(frozen=True, slots=True)
class Site:
    """One weight that a pass may act on."""

    path: str
    """The initializer's name."""
    shape: tuple[int, ...]
    op: str
    """Type of the node that consumes it."""
    axis: int
    """Along this axis lie the outputs of the node: what shares a row shares an output."""
    bytes: int
    """In the source model."""


class Graph:
    """One model under work. `model` is changed in place, so hand over a copy if you need it later."""

    def __init__(self, model: onnx.ModelProto) -> None:
        normalise(model)
        self.model = model
        self.leaves: dict[str, Leaf] = {}
        self._tensors = {t.name: t for graph in subgraphs(model.graph) for t in graph.initializer}

    def sites(self) -> Iterator[Site]:
        """Every float weight of two or more dimensions that a node with weights consumes, in graph order."""
        seen = set()
        for graph in subgraphs(self.model.graph):
            for node in graph.node:
                for index, name in enumerate(node.input):
                    tensor = self._tensors.get(name)
                    if tensor is None or name in seen or not _is_float_matrix(tensor):
                        continue
                    axis = _output_axis(node, index, len(tensor.dims))
                    if axis is not None:
                        seen.add(name)
                        yield Site(name, tuple(tensor.dims), node.op_type, axis, tensor_bytes(tensor))

    def values(self, path: str) -> Array:
        """The weight at `path`."""
        return np.asarray(numpy_helper.to_array(self._tensors[path]))

    def has(self, path: str) -> bool:
        """Whether a weight of this name exists."""
        return path in self._tensors

    def store(self, path: str, leaf: Leaf) -> None:
        """The weight at `path` shall be stored as `leaf`."""
        self.leaves[path] = leaf

    def weights(self) -> Iterator[tuple[str, int]]:
        """Every initializer's name and bytes."""
        for name, tensor in self._tensors.items():
            yield name, tensor_bytes(tensor)

    def export(self) -> tuple[onnx.ModelProto, dict[str, Leaf]]:
        """The inner model, and what is stored beside it by name.

        Stored weights become external-data references of the main graph, where subgraphs see them too.
        """
        leaves = {name: leaf for name in self._tensors if (leaf := self._leaf(name)) is not None}
        for graph in subgraphs(self.model.graph):
            kept = [t for t in graph.initializer if t.name not in leaves]
            if len(kept) < len(graph.initializer):
                copies = [onnx.TensorProto.FromString(t.SerializeToString()) for t in kept]
                dims = {t.name: (t.data_type, list(t.dims)) for t in graph.initializer if t.name in leaves}
                del graph.initializer[:]
                graph.initializer.extend(copies)
                self.model.graph.initializer.extend(_reference(n, *dims[n]) for n in dims)
        order = [t.name for t in self.model.graph.initializer if t.name in leaves]
        return self.model, {name: leaves[name] for name in order}

    def _leaf(self, name: str) -> Leaf | None:
        if name in self.leaves:
            return self.leaves[name]
        tensor = self._tensors[name]
        count = int(np.prod(tensor.dims, dtype=np.int64)) if tensor.dims else 0
        if count < MIN_STORED or tensor.data_type == onnx.TensorProto.STRING:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype not in STORABLE or dtype.kind in "iub" and dtype.itemsize >= 4 and count < MIN_STORED_INTEGERS:
            return None
        return self.values(name)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    count = int(np.prod(tensor.dims, dtype=np.int64))
    return count * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _reference(name: str, data_type: int, dims: list[int]) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=name, data_type=data_type, dims=dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)
    return tensor


def _is_float_matrix(tensor: onnx.TensorProto) -> bool:
    types = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
    return len(tensor.dims) >= 2 and tensor.data_type in types and 0 not in tensor.dims


def _output_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The axis of a weight's outputs; None where the operand is not a weight. Shapes: the ONNX operators' pages."""
    attributes = {a.name: a for a in node.attribute}
    match (node.op_type, index):
        case ("Conv" | "Gather" | "GatherElements" | "ConvInteger" | "DeformConv", _) if index == _data_input(node):
            return 0
        case ("ConvTranspose", 1) | ("LSTM" | "GRU" | "RNN", 1 | 2):
            return 1
        case ("Gemm", 0):
            return 1 if "transA" in attributes and attributes["transA"].i else 0
        case ("Gemm", 1):
            return 0 if "transB" in attributes and attributes["transB"].i else 1
        case ("MatMul", 0):
            return rank - 2
        case ("MatMul", 1):
            return rank - 1
    return None


def _data_input(node: onnx.NodeProto) -> int:
    return 0 if node.op_type.startswith("Gather") else 1
