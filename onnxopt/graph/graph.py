"""The graph as passes see it: weights by path, their sites, and how each weight is stored."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from onnxopt.encoding import STORABLE, Affine, Array, Encoding, Grid, InPlace, Raw
from onnxopt.errors import OnnxoptError
from onnxopt.files.set_aside import LEAST, Shelf, elements_of, whole
from onnxopt.graph.float_twin import Twin, float_twin
from onnxopt.graph.linear import Linear, linear_use
from onnxopt.graph.normalise import hoist, subgraphs
from onnxopt.graph.rewrite import dynamic_int8, low_rank_chain, matmul_nbits, qdq_insert, round_outputs
from onnxopt.graph.rewrite.prelu_to_conv import channelwise_prelus, prelu_as_convs
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.graph.single import in_single
from onnxopt.graph.sites import FLOATS, Site, float_sites, tensor_bytes

_LEAST_SHARE = 0.01
"""Of a model's bytes: what is quantized where all sites have less saves next to nothing, and makes noise."""
MIN_STORED = 64
"""Elements: a smaller tensor that is not quantized stays in the inner model, where deflate compresses it better."""
MIN_STORED_INTEGERS = 1024
"""Elements of an int32 or int64 tensor: smaller ones are shapes and axes, which the runtime needs at load time."""

LOCATION = "onnxopt"
"""The external location that inner models give for their weights; no such file exists, the loader provides them."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What passes store in a graph; see there."""

    encodings: Mapping[str, Encoding]
    quantized: Mapping[str, QuantParams]
    integers: Set[str]
    adjusted: Mapping[str, Array]


class Graph:
    """One normalised model: passes change how it is stored and run, and `reset` undoes all changes.

    Arguments:
        deep: as for `hoist`, which is called with the model.
        moves: whether passes may move the integers that the model came with.
    """

    def __init__(self, model: onnx.ModelProto, deep: bool = True, moves: bool = False) -> None:
        hoist(model, deep)
        self.model = model
        self.moves = moves
        self.encodings: dict[str, Encoding] = {}
        self.quantized: dict[str, QuantParams] = {}
        self.pairs: dict[str, QuantParams] = {}
        self.depthwise: set[str] = set()
        """Values whose PRelu becomes depthwise convolutions."""
        self.dynamic: set[str] = set()
        """Values that products round by their range in each run."""
        self.integers: set[str] = set()
        """Weights that stay int8 at run time."""
        self.shelf: Shelf | None = None
        """Where weights lie that only this graph has."""
        self._tensors = {t.name: t for t in model.graph.initializer}
        self._adjusted: dict[str, Array] = {}

    def scratch(self) -> Graph:
        """The same model, as it came: what passes store in one is not in the other."""
        other = object.__new__(Graph)
        other.__dict__.update(self.__dict__)
        other.encodings, other.quantized, other.pairs, other._adjusted = {}, {}, {}, {}
        other.depthwise, other.dynamic, other.integers = set(), set(), set()
        return other

    @property
    def stored(self) -> Stored:
        """What passes have stored so far."""
        return Stored(self.encodings, self.quantized, self.integers, self._adjusted)

    def take(self, stored: Stored) -> None:
        """Adds what passes have stored in another graph of the same model."""
        self.encodings |= stored.encodings
        self.quantized |= stored.quantized
        self.integers |= stored.integers
        self._adjusted |= stored.adjusted

    def __reduce__(self) -> tuple[Any, ...]:
        """Of a model, its nodes and each tensor travel by themselves: a message holds 2 GB at most."""
        tensors = [whole(tensor).SerializeToString() for tensor in self.model.graph.initializer]
        return _travelled, (self._nodes().SerializeToString(), tensors, self.moves)

    @cached_property
    def in_floats(self) -> Graph:
        """This graph, with floats in place of integers that passes move."""
        return Graph(self._twin.model, deep=False) if self._twin is not None else self

    @cached_property
    def measured(self) -> Graph:
        """The graph that statistics are measured on: `in_floats`, in single precision."""
        single = in_single(self.in_floats.model)
        if single is None:
            return self.in_floats
        model, shelf = single
        made = Graph(model, deep=False)
        made.shelf = shelf
        return made

    @cached_property
    def _twin(self) -> Twin | None:
        return float_twin(self.model) if self.moves else None

    @property
    def grids(self) -> Mapping[str, Grid]:
        """Grids of the integers that passes may move, and of biases that follow them, by path."""
        return {} if self._twin is None else self._twin.grids

    def sites(self) -> Iterator[Site]:
        """Every float weight, bias or slope that is large enough to store, and integers that move, in graph order.

        A weight that the model returns is none: it keeps every bit. No float is where all of them together are next to
        nothing, as in a quantized model: its outputs are worth more than these bytes.
        """
        sites = list(self._sites())
        floats = sum(site.bytes for site in sites if site.path not in self.grids)
        few = floats < _LEAST_SHARE * sum(size for _, size in self.weights())
        yield from (site for site in sites if site.path in self.grids or not few)

    def _sites(self) -> Iterator[Site]:
        for site in float_sites(self.in_floats.model):
            if site.path not in self.grids:
                yield site
            elif site.axis is not None:
                yield replace(site, bytes=tensor_bytes(self._tensors[site.path]))

    def kept(self) -> dict[str, str]:
        """Why no pass may act on a weight, by the path of each that is no site."""
        sites, shown = {site.path for site in self.sites()}, {value.name for value in self.model.graph.output}
        few = {site.path for site in self._sites()} - sites
        uses: dict[str, str] = {}
        for graph in subgraphs(self.model.graph):
            for node in graph.node:
                for name in node.input:
                    uses.setdefault(name, f"no pass changes such inputs of {node.op_type}")
        found = {}
        for name, tensor in self._tensors.items():
            if name in sites:
                continue
            if name in self.grids:
                found[name] = "it changes only as a weight before it does"
            elif tensor.data_type not in FLOATS:
                kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
                found[name] = f"its elements are {kind}, which are coded as they are"
                if self.moves and len(tensor.dims) > 1:
                    found[name] += "; nothing is known of how they are used"
            elif name in shown:
                found[name] = "the model returns it"
            elif name in few:
                found[name] = f"all such floats make under {_LEAST_SHARE:.0%} of the model's bytes"
            else:
                found[name] = uses.get(name, "no node reads it")
        return found

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
        return self._adjusted[path] if path in self._adjusted else self.original(path)

    def original(self, path: str) -> Array:
        """The weight at `path`, as it came; of integers that move, the values."""
        elements = elements_of(self._tensors[path])
        return self.grids[path].floats(elements) if path in self.grids else elements

    def adjust(self, path: str, values: Array) -> None:
        """Replaces the values of the weight at `path`, in its own shape and type, before any pass stores it."""
        self._adjusted[path] = values

    def reset(self) -> None:
        """Restores the model as it came."""
        self.encodings.clear()
        self.quantized.clear()
        self.pairs.clear()
        self.depthwise.clear()
        self.dynamic.clear()
        self.integers.clear()
        self._adjusted.clear()

    def store(self, path: str, encoding: Encoding) -> None:
        """Sets how the weight at `path` is stored; integers that move, as the nearest of their grid."""
        if path in self.grids and not isinstance(encoding, InPlace):
            encoding = self._in_place(path, encoding.values())
        self.encodings[path] = encoding

    def _in_place(self, path: str, values: Array) -> InPlace:
        grid = self.grids[path]
        return InPlace(grid.nearest(values), grid)

    def quantize(self, value: str, params: QuantParams) -> None:
        """Rounds this value of the main graph for all its readers, the user included."""
        self.quantized[value] = params

    def pair(self, value: str, params: QuantParams) -> None:
        """Makes this value of the main graph integers between nodes that take integers.

        Raises OnnxoptError where the model has no such value, or its opset is too old.
        """
        qdq_insert.check(self.model, value)
        self.pairs[value] = params

    def round_dynamically(self, value: str) -> None:
        """Lets the products that read this value of the main graph round it by its own range in each run.

        Raises OnnxoptError where no product reads it, or the model's opset is too old.
        """
        dynamic_int8.check(self.model, value)
        self.dynamic.add(value)

    def prelu_as_convs(self, value: str) -> None:
        """Replaces the PRelu that makes this value by depthwise convolutions, which compute the same.

        Raises OnnxoptError where no PRelu makes it, or the PRelu has no slope for each channel.
        """
        if value not in self.prelus:
            raise OnnxoptError(f"plan, value {value!r}: no PRelu with slopes by channel makes it of images")
        self.depthwise.add(value)

    @cached_property
    def prelus(self) -> list[str]:
        """Outputs of PRelu nodes that depthwise convolutions can replace."""
        return channelwise_prelus(self.model)

    def keep_integers(self, path: str) -> None:
        """Keeps the weight at `path`, stored on a grid of 8 bits, as int8 at run time."""
        self.integers.add(path)

    def replace(self, path: str, tensors: Mapping[str, Array], chain: low_rank_chain.Chain) -> tuple[Site, ...]:
        """Replaces every node that uses the weight at `path` by a chain, for good; returns the sites of new weights.

        Arguments:
            tensors: initializers to add, ``path@part``, or to overwrite, by name.
            chain: the nodes that replace a node.

        Raises OnnxoptError if a name is taken.
        """
        low_rank_chain.replace(self.model, path, tensors, chain)
        for known in ("_twin", "in_floats", "measured"):
            self.__dict__.pop(known, None)
        self._tensors = {t.name: t for t in self.model.graph.initializer}
        return tuple(site for site in self.sites() if site.path.startswith(f"{path}@") and site.path in tensors)

    def set_aside(self, path: str, shelf: Shelf | None) -> None:
        """Leaves the integers of a weight on the disk, where there is a place for them, if they are many."""
        stored = self.encodings.get(path)
        if shelf is None or not isinstance(stored, Affine):
            return
        if stored.q.nbytes >= LEAST and stored.q.flags.owndata:
            self.encodings[path] = replace(stored, q=shelf.keep(stored.q))

    def encoding(self, path: str) -> Encoding:
        """How the weight at `path` is stored now: as the last pass left it, or as it came."""
        return self.encodings[path] if path in self.encodings else Raw(self.values(path))

    def weights(self) -> Iterator[tuple[str, int]]:
        """Every initializer's name and bytes."""
        for name, tensor in self._tensors.items():
            yield name, tensor_bytes(tensor)

    def export(self) -> tuple[onnx.ModelProto, dict[str, Encoding]]:
        """The inner model, with external-data references for stored weights, and these weights by name."""
        stored = {name: encoding for name in self._tensors if (encoding := self._stored(name)) is not None}
        inner = self._nodes()
        inner.graph.initializer.extend(_reference(t) if name in stored else self._small(name)
                                       for name, t in self._tensors.items())  # fmt: skip
        prelu_as_convs(inner, self.depthwise)
        matmul_nbits.insert(inner, stored)
        round_outputs.insert(inner, self.quantized)
        if self.pairs:
            self._insert_pairs(inner, stored)
        if self.dynamic:
            self._insert_dynamic(inner, stored)
        return inner, stored

    def _nodes(self) -> onnx.ModelProto:
        """The model without its tensors."""
        nodes = onnx.ModelProto()
        for field, value in self.model.ListFields():
            if field.name != "graph":
                _copy_field(nodes, field.name, value)
        for field, value in self.model.graph.ListFields():
            if field.name != "initializer":
                _copy_field(nodes.graph, field.name, value)
        return nodes

    def _insert_pairs(self, inner: onnx.ModelProto, stored: dict[str, Encoding]) -> None:
        grids = self._grids(stored)
        found = qdq_insert.insert(inner, self.pairs, grids, lambda bias: self.encoding(bias).values())
        stored.update({path: Raw(grids[path].q.astype(np.int8)) for path in found.integers})
        for name in found.gone:
            stored.pop(name, None)
        for index in reversed(range(len(inner.graph.initializer))):
            if inner.graph.initializer[index].name in found.gone:
                del inner.graph.initializer[index]
        _add(inner, stored, found.stored)

    def _insert_dynamic(self, inner: onnx.ModelProto, stored: dict[str, Encoding]) -> None:
        weights, scales = dynamic_int8.insert(inner, self.dynamic, self._grids(stored))
        stored.update(weights)
        _add(inner, stored, scales)

    def _grids(self, stored: Mapping[str, Encoding]) -> dict[str, Affine]:
        """Weights that stay int8 at run time, on their grids."""
        return {path: weight for path in self.integers if isinstance(weight := stored.get(path), Affine)}

    def _small(self, name: str) -> onnx.TensorProto:
        """A tensor that stays in the inner model."""
        changed = self._elements(name) if name in self._adjusted else None
        return self._tensors[name] if changed is None else numpy_helper.from_array(changed, name)

    def _elements(self, name: str) -> Array:
        """The elements that the model has at run time, of a tensor that no pass has stored."""
        if name not in self._adjusted:
            return elements_of(self._tensors[name])
        values = self._adjusted[name]
        return self._in_place(name, values).q if name in self.grids else values

    def _stored(self, name: str) -> Encoding | None:
        """How an initializer is stored; None where it stays in the inner model."""
        if name in self.encodings:
            return self.encodings[name]
        tensor = self._tensors[name]
        count = prod(tensor.dims) if tensor.dims else 0
        if count < MIN_STORED or tensor.data_type == onnx.TensorProto.STRING:
            return None
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype not in STORABLE or (dtype.kind in "iub" and dtype.itemsize >= 4 and count < MIN_STORED_INTEGERS):
            return None
        elements = self._elements(name)
        return InPlace(elements, self.grids[name]) if name in self.grids else Raw(elements)


def _add(inner: onnx.ModelProto, stored: dict[str, Encoding], more: Mapping[str, Encoding]) -> None:
    """Adds initializers; those that are large enough are stored."""
    for name, encoding in more.items():
        values = encoding.values()
        tensor = numpy_helper.from_array(values, name)
        if values.size >= MIN_STORED:
            stored[name], tensor = encoding, _reference(tensor)
        inner.graph.initializer.append(tensor)


def _copy_field(message: Any, name: str, value: Any) -> None:
    if hasattr(value, "MergeFrom"):  # a message, or many
        getattr(message, name).MergeFrom(value)
    else:
        setattr(message, name, value)


def _travelled(nodes: bytes, tensors: Sequence[bytes], moves: bool) -> Graph:
    """A graph in another process."""
    model = onnx.ModelProto.FromString(nodes)
    model.graph.initializer.extend(map(onnx.TensorProto.FromString, tensors))
    return Graph(model, False, moves)


def _reference(stored: onnx.TensorProto) -> onnx.TensorProto:
    tensor = onnx.TensorProto(name=stored.name, data_type=stored.data_type, dims=stored.dims)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=LOCATION)
    return tensor
