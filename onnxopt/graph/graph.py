"""The graph as passes see it: weights by path, their sites, and the encodings to store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.encoding import STORABLE, Affine, Array, Encoding, values_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph.linear import Linear, linear_use
from onnxopt.graph.normalise import hoist, subgraphs
from onnxopt.graph.rewrite import low_rank_chain, matmul_nbits, qdq
from onnxopt.graph.rewrite.prelu_to_conv import channelwise_prelus, prelu_as_convs
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.graph.rewrite.quantized import Quantized, insert

MIN_QUANTIZED = 16
"""Elements: a smaller weight costs more in the container's table than it saves."""
MIN_STORED = 64
"""Elements: a smaller tensor that is not quantized stays in the inner model, which deflate compresses as a whole."""
MIN_STORED_INTEGERS = 1024
"""Elements of an int32 or int64 tensor: smaller ones are shapes and axes, which the runtime needs at load time."""

LOCATION = "onnxopt"
"""The external-data location of an inner model's weights. No such file exists: the loader provides them."""


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


class Graph:
    """A normalised model that passes change; `reset` undoes all changes but `replace`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        hoist(model)
        self.model = model
        self.leaves: dict[str, Encoding] = {}
        self.quantized: dict[str, Quantized] = {}
        self.pairs: dict[str, QuantParams] = {}
        self.depthwise: set[str] = set()
        """Outputs of the PRelu nodes that are exported as convolutions."""
        self.integers: set[str] = set()
        """Weights that are exported as integers."""
        self._tensors = {t.name: t for t in model.graph.initializer}
        self._adjusted: dict[str, Array] = {}

    def sites(self) -> Iterator[Site]:
        """Every float weight, bias or slope that is large enough to store, in graph order."""
        seen = set()
        for graph in subgraphs(self.model.graph):
            for node in graph.node:
                for index, name in enumerate(node.input):
                    tensor = self._tensors.get(name)
                    if tensor is None or name in seen or tensor.data_type not in _FLOATS:
                        continue
                    axis = _output_axis(node, index, len(tensor.dims))
                    if prod(tensor.dims) < MIN_QUANTIZED or (axis is None and not _is_vector(node, index, tensor)):
                        continue
                    seen.add(name)
                    yield Site(name, tuple(tensor.dims), node.op_type, axis, tensor_bytes(tensor))

    def linears(self) -> dict[str, tuple[Linear, ...]]:
        """All uses, in graph order, of each weight that only linear operators of the main graph use."""
        uses: dict[str, list[onnx.NodeProto]] = {}
        hidden = set()
        for graph in subgraphs(self.model.graph):
            for node in graph.node:
                for name in node.input:
                    if graph is self.model.graph:
                        uses.setdefault(name, []).append(node)
                    else:
                        uses.setdefault(name, []).append(onnx.NodeProto(op_type="Identity", input=[name]))
                        hidden.add(name)
        for value in self.model.graph.output:  # an output of the model counts as a use
            uses.setdefault(value.name, []).append(onnx.NodeProto(op_type="Identity", input=[value.name]))
        found = {}
        for path in self._tensors:
            if path not in hidden:
                linear = [linear_use(node, path, self._tensors, uses) for node in uses.get(path, [])]
                known = tuple(one for one in linear if one is not None)
                if known and len(known) == len(linear):
                    found[path] = known
        return found

    def values(self, path: str) -> Array:
        """The weight at `path`."""
        if path in self._adjusted:
            return self._adjusted[path]
        return np.asarray(numpy_helper.to_array(self._tensors[path]))

    def adjust(self, path: str, values: Array) -> None:
        """Replaces the values of the weight at `path`, keeping shape and type, before any pass stores it."""
        self._adjusted[path] = values

    def reset(self) -> None:
        """Undoes every change but `replace`."""
        self.leaves.clear()
        self.quantized.clear()
        self.pairs.clear()
        self.depthwise.clear()
        self.integers.clear()
        self._adjusted.clear()

    def store(self, path: str, leaf: Encoding) -> None:
        """Stores the weight at `path` as `leaf`."""
        self.leaves[path] = leaf

    def quantize(self, value: str, how: Quantized) -> None:
        """Rounds this value of the main graph for all its readers, the user included."""
        self.quantized[value] = how

    def pair(self, value: str, how: QuantParams) -> None:
        """Quantizes this value of the main graph between nodes that have integer kernels.

        Raises OnnxoptError if no value has this name, or the opset is too old.
        """
        qdq.check(self.model, value)
        self.pairs[value] = how

    def prelu_as_convs(self, value: str) -> None:
        """Exports the PRelu that makes this value as depthwise convolutions, which compute the same.

        Raises OnnxoptError if there is none, or its slopes are not by channel.
        """
        if value not in self.prelus:
            raise OnnxoptError(f"plan, value {value!r}: no PRelu with slopes by channel makes it of images")
        self.depthwise.add(value)

    @cached_property
    def prelus(self) -> list[str]:
        """Outputs of the PRelu nodes that depthwise convolutions can replace."""
        return channelwise_prelus(self.model)

    def keep_integers(self, path: str) -> None:
        """Keeps the weight at `path`, which is stored on an 8-bit grid, as integers when the model runs."""
        self.integers.add(path)

    def replace(self, path: str, tensors: Mapping[str, Array], chain: low_rank_chain.Chain) -> tuple[Site, ...]:
        """Replaces every node that uses the weight at `path` by a low-rank chain; returns the sites of its weights.

        `reset` does not undo this.

        Arguments:
            tensors: by name, initializers to add, ``path@part``, or to overwrite.
            chain: makes the nodes that replace a node.

        Raises OnnxoptError if a name is taken.
        """
        low_rank_chain.replace(self.model, path, tensors, chain)
        self._tensors = {t.name: t for t in self.model.graph.initializer}
        return tuple(site for site in self.sites() if site.path.startswith(f"{path}@") and site.path in tensors)

    def leaf(self, path: str) -> Encoding:
        """The encoding at `path`: the one that the last pass stored, or the weight itself."""
        return self.leaves[path] if path in self.leaves else self.values(path)

    def weights(self) -> Iterator[tuple[str, int]]:
        """Every initializer's name and bytes."""
        for name, tensor in self._tensors.items():
            yield name, tensor_bytes(tensor)

    def export(self) -> tuple[onnx.ModelProto, dict[str, Encoding]]:
        """The inner model, whose stored weights are external-data references, and the encoding of each by name."""
        leaves = {name: leaf for name in self._tensors if (leaf := self._leaf(name)) is not None}
        inner = onnx.ModelProto()
        for field, value in self.model.ListFields():
            if field.name != "graph":
                _copy_field(inner, field.name, value)
        for field, value in self.model.graph.ListFields():
            if field.name != "initializer":
                _copy_field(inner.graph, field.name, value)
        inner.graph.initializer.extend(_reference(t) if name in leaves else self._small(name)
                                       for name, t in self._tensors.items())  # fmt: skip
        prelu_as_convs(inner, self.depthwise)
        matmul_nbits.insert(inner, leaves)
        insert(inner, self.quantized)
        if self.pairs:
            self._insert_pairs(inner, leaves)
        return inner, leaves

    def _insert_pairs(self, inner: onnx.ModelProto, leaves: dict[str, Encoding]) -> None:
        grids = {path: leaf for path in self.integers if isinstance(leaf := leaves.get(path), Affine)}
        found = qdq.insert(inner, self.pairs, grids, lambda bias: values_of(self.leaf(bias)))
        leaves.update({path: grids[path].q.astype(np.int8) for path in found.integers})
        for name in found.gone:
            leaves.pop(name, None)
        for index in reversed(range(len(inner.graph.initializer))):
            if inner.graph.initializer[index].name in found.gone:
                del inner.graph.initializer[index]
        for name, leaf in found.stored.items():
            values = values_of(leaf)
            tensor = numpy_helper.from_array(values, name)
            if values.size >= MIN_STORED:
                leaves[name], tensor = leaf, _reference(tensor)
            inner.graph.initializer.append(tensor)

    def _small(self, name: str) -> onnx.TensorProto:
        """A tensor that stays in the inner model."""
        adjusted = self._adjusted.get(name)
        return self._tensors[name] if adjusted is None else numpy_helper.from_array(adjusted, name)

    def _leaf(self, name: str) -> Encoding | None:
        if name in self.leaves:
            return self.leaves[name]
        tensor = self._tensors[name]
        count = prod(tensor.dims) if tensor.dims else 0
        if count < MIN_STORED or tensor.data_type == onnx.TensorProto.STRING:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype not in STORABLE or (dtype.kind in "iub" and dtype.itemsize >= 4 and count < MIN_STORED_INTEGERS):
            return None
        return self.values(name)


def tensor_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(map(len, tensor.string_data))
    width = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    return prod(tensor.dims) * int(width)


def _copy_field(message: Any, name: str, value: Any) -> None:
    if hasattr(value, "MergeFrom"):  # a message, or many
        getattr(message, name).MergeFrom(value)
    else:
        setattr(message, name, value)


def _reference(stored: onnx.TensorProto) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=stored.name, data_type=stored.data_type, dims=stored.dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)
    return tensor


_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE)
_VECTORS = {
    "BatchNormalization": (1, 2), "Conv": (2,), "ConvTranspose": (2,), "Gemm": (2,), "LSTM": (3,), "GRU": (3,),
    "RNN": (3,), "PRelu": (1,),
}  # fmt: skip
"""Operators with scales, biases or slopes, and the inputs where these are."""


def _is_vector(node: onnx.NodeProto, index: int, tensor: onnx.TensorProto) -> bool:
    """One number for each channel: as many elements as its longest dimension has, or LSTM's B[dirs, 8H]."""
    if index not in _VECTORS.get(node.op_type, ()) and not (node.op_type == "Add" and len(tensor.dims) == 1):
        return False
    return max(tensor.dims) == prod(tensor.dims) or node.op_type in ("LSTM", "GRU", "RNN")


_SHAPE_OPS = frozenset(("Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"))
"""Operators that only rearrange a weight's elements before they are used."""


def _output_axis(node: onnx.NodeProto, index: int, rank: int) -> int | None:
    """The axis of a weight's outputs; None if the operand is not a weight. Shapes: the ONNX operator reference."""
    attributes = {a.name: a for a in node.attribute}
    if rank < 2:
        return None
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
        case (op, 0) if op in _SHAPE_OPS:
            return 0
    return None


def _data_input(node: onnx.NodeProto) -> int:
    return 0 if node.op_type.startswith("Gather") else 1
