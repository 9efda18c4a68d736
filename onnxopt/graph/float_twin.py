"""A model that multiplies by integers, in floats, so that what is known of float weights is measured of its integers.

Each node that reads a weight of integers becomes the node on floats that it stands for. Values that are rounded as the
model runs stay rounded, so layers see the inputs that they are going to see.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper

from onnxopt.encoding import Array, Grid
from onnxopt.files.set_aside import elements_of, tensor_of
from onnxopt.graph.functions import RUNTIME, STANDARD
from onnxopt.graph.walk import set_nodes, subgraphs

_LARGEST = 2**30
"""Bytes of a twin's floats, which messages and sessions hold several times."""
node = helper.make_node
Nodes = list[onnx.NodeProto]


@dataclass(frozen=True, slots=True)
class Twin:
    """The model in floats, and the grids of its weights that are integers in the original, by path."""

    model: onnx.ModelProto
    grids: Mapping[str, Grid]


def float_twin(model: onnx.ModelProto) -> Twin | None:
    """The twin of a normalised model; None where no weight is read as integers, or its floats are over 1 GB."""
    work = _Twins(model)
    nodes = [made for one in model.graph.node for made in work.of(one)]
    if not work.grids or 4 * sum(prod(grid.shape) for grid in work.grids.values()) > _LARGEST:
        return None
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    set_nodes(twin.graph, nodes)
    _read_instead(twin.graph, work.instead)
    replaced = {path: grid.floats(work.elements(path)) for path, grid in work.grids.items()} | work.added
    for tensor in twin.graph.initializer:
        if tensor.name in replaced:
            tensor.CopyFrom(tensor_of(np.ascontiguousarray(replaced.pop(tensor.name)), tensor.name))
    twin.graph.initializer.extend(tensor_of(array, name) for name, array in replaced.items())
    return Twin(twin, work.grids)


def _read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for inner in subgraphs(graph):
        for one in inner.node:
            for index, name in enumerate(one.input):
                one.input[index] = names.get(name, name)


@dataclass
class _Twins:
    """Twins of nodes, one after another."""

    model: onnx.ModelProto
    grids: dict[str, Grid] = field(default_factory=dict)
    instead: dict[str, str] = field(default_factory=dict)
    """By value that the twin lacks, the one that takes its place."""
    passing: set[str] = field(default_factory=set)
    """Values that later nodes make of floats where the original has integers: they change nothing in the twin."""
    added: dict[str, Array] = field(default_factory=dict)
    """Constants of the twin."""

    def __post_init__(self) -> None:
        graph = self.model.graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self.returned = {value.name for value in graph.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for inner in subgraphs(graph):
            for one in inner.node:
                for name in one.input:
                    self._readers.setdefault(name, []).append(one)
        self._makers = {name: one for one in graph.node for name in one.output}

    def of(self, one: onnx.NodeProto) -> Nodes:
        """The nodes that take a node's place."""
        if one.output and one.output[0] in self.passing:
            return [node("Identity", one.input[:1], one.output[:1])]
        rule = _RULES.get(("" if one.domain in STANDARD else one.domain, one.op_type))
        made = None if rule is None else rule(self, one, [*one.input, *[""] * 12])
        return [one] if made is None else made

    def elements(self, name: str) -> Array:
        """A constant."""
        return elements_of(self._constants[name])

    def only(self, name: str) -> bool:
        """Whether a value is a constant that one node reads, and that no other grid has."""
        known = name in self._constants and name not in self.grids and name not in self.returned
        return known and len(self._readers[name]) == 1

    def constant(self, name: str, otherwise: int = 0) -> Array | None:
        """A constant, `otherwise` where it is not given; None where it is computed."""
        if not name:
            return np.asarray(otherwise)
        return self.elements(name) if name in self._constants else None

    def readers(self, name: str) -> Sequence[onnx.NodeProto]:
        """Nodes that read a value, unless the model returns it."""
        return () if name in self.returned else self._readers.get(name, ())

    def take(self, name: str, scale: Array | None, zero: Array | None, axis: int | None = None,
             order: tuple[int, ...] = ()) -> bool:  # fmt: skip
        """Makes floats of a constant of integers that one node reads; false where that is not possible.

        Arguments:
            axis: along which scales and zeros lie; None where they broadcast as they are.
        """
        if scale is None or zero is None or not self.only(name):
            return False
        tensor = self._constants[name]
        dtype, rank = helper.tensor_dtype_to_np_dtype(tensor.data_type), len(tensor.dims)
        if dtype not in _INTEGERS or not _is_usable(scale):
            return False
        lies = [_along(one, rank, axis) for one in (scale, zero)]
        try:
            np.broadcast_shapes(tuple(tensor.dims), *(one.shape for one in lies))
        except ValueError:
            return False
        self.grids[name] = Grid(lies[0], lies[1].astype(np.int32), dtype, tuple(tensor.dims), order)
        return True

    def scale_behind(self, product: str, across: int) -> Array:
        """The constant scale that a product of integers is multiplied by later, which becomes 1; 1 if none is found.

        Arguments:
            across: the weight's axis of outputs, as numpy broadcasts a scale for each.
        """
        after = self.readers(product)
        if len(after) == 1 and after[0].op_type == "Cast":
            after = self.readers(after[0].output[0])
        for scale in after[0].input if len(after) == 1 and after[0].op_type == "Mul" else ():
            maker = self._makers.get(scale)
            parts = (scale,) if maker is None else maker.input if maker.op_type == "Mul" else ()
            for name in parts:
                if self.only(name) and name not in self.added and self.elements(name).dtype == np.float32:
                    values = self.elements(name)
                    if _is_usable(values) and (values.size == 1 or (values.ndim == 1 and across == -1)):
                        self.added[name] = np.ones_like(values)
                        return values.reshape(()) if values.size == 1 else values
        return np.asarray(1, np.float32)


_INTEGERS = frozenset(map(np.dtype, (np.int8, np.uint8, np.int32, ml_dtypes.int4, ml_dtypes.uint4)))


def _is_usable(scale: Array) -> bool:
    return bool(scale.size and np.isfinite(scale).all() and (scale > 0).all())


def _along(values: Array, rank: int, axis: int | None) -> Array:
    if values.size == 1:
        return values.reshape(())
    if axis is None or values.ndim != 1:
        return values
    return values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def _attribute(one: onnx.NodeProto, name: str, otherwise: int) -> int:
    return next((int(a.i) for a in one.attribute if a.name == name), otherwise)


def _like(one: onnx.NodeProto, op: str, inputs: Sequence[str], output: str) -> onnx.NodeProto:
    """A node of ONNX's own with another's attributes."""
    made = node(op, inputs, [output], name=one.name)
    made.attribute.extend(one.attribute)
    return made


# ---- rules: a node, its inputs and as many empty ones -> the twin's nodes; None where it stays ---------------------


def _dequantize(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    name, scale, zero = inputs[0], work.constant(inputs[1]), work.constant(inputs[2])
    if _attribute(one, "block_size", 0) or one.output[0] in work.returned:
        return None
    if not work.take(name, scale, zero, _attribute(one, "axis", 1)):
        return None
    work.instead[one.output[0]] = name
    return []


def _gathered(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    """Rows of a table, which are made floats by one scale afterwards."""
    after = work.readers(one.output[0])
    if len(after) != 1 or after[0].op_type != "DequantizeLinear":
        return None
    scale, zero = (work.constant(name) for name in [*after[0].input, ""][1:3])
    if scale is None or scale.size != 1 or not work.take(inputs[0], scale, zero):
        return None
    work.passing.add(after[0].output[0])
    return [one]


def _integer_product(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    x, weight, x_zero, zero = inputs[:4]
    conv = one.op_type == "ConvInteger"
    zeros = work.constant(zero)
    if zeros is None or not work.only(weight):
        return None
    scale = work.scale_behind(one.output[0], 0 if conv else -1)
    if not work.take(weight, scale, zeros, 0 if conv else None):
        return None
    return [*_floats(one, x, x_zero), _like(one, "Conv" if conv else "MatMul", [f"{one.output[0]}@x", weight],
                                            one.output[0])]  # fmt: skip


def _floats(one: onnx.NodeProto, x: str, zero: str, scale: str = "") -> Nodes:
    """``x - zero``, times a scale."""
    value = one.output[0]
    names = [f"{value}@{part}" for part in ("integers", "zero", "steps")]
    last = f"{value}@x"
    steps = names[2] if scale else last
    if zero:
        made = [node("Cast", [x], [names[0]], to=TensorProto.FLOAT), node("Cast", [zero], [names[1]],
                to=TensorProto.FLOAT), node("Sub", names[:2], [steps])]  # fmt: skip
    else:
        made = [node("Cast", [x], [steps], to=TensorProto.FLOAT)]
    return [*made, node("Mul", [steps, scale], [last])] if scale else made


def _to_float_product(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    """MatMulIntegerToFloat: A, B, scale and scale, zero and zero, bias."""
    x, weight, x_scale, scale, x_zero, zero, bias = inputs[:7]
    if not work.take(weight, work.constant(scale), work.constant(zero)):
        return None
    return [*_floats(one, x, x_zero, x_scale), *_product(one, f"{one.output[0]}@x", weight, bias)]


def _dynamic_product(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    """DynamicQuantizeMatMul: A, B, scale, zero, bias."""
    x, weight, scale, zero, bias = inputs[:5]
    return _product(one, x, weight, bias) if work.take(weight, work.constant(scale), work.constant(zero)) else None


def _product(one: onnx.NodeProto, x: str, weight: str, bias: str) -> Nodes:
    y = one.output[0]
    if not bias:
        return [node("MatMul", [x, weight], [y], name=one.name)]
    return [node("MatMul", [x, weight], [f"{y}@product"], name=one.name), node("Add", [f"{y}@product", bias], [y])]


def _dynamic_lstm(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    """DynamicQuantizeLSTM: those of LSTM, W and R turned; scale and zero of W, of R."""
    before = dict(work.grids)
    for weight, at in zip(inputs[1:3], (8, 10), strict=True):
        scale, zero = (_by_direction(work.constant(name)) for name in inputs[at : at + 2])
        if not work.take(weight, scale, zero, order=(0, 2, 1)):
            work.grids = before
            return None
    made = node("LSTM", inputs[:8], list(one.output), name=one.name)
    made.attribute.extend(one.attribute)
    return [made]


def _by_direction(values: Array | None) -> Array | None:
    """[directions] or [directions, outputs], to broadcast to [directions, inputs, outputs]."""
    if values is None or values.ndim == 0:
        return values
    return values[:, None] if values.ndim > 1 else values[:, None, None]


def _rounding_product(work: _Twins, one: onnx.NodeProto, inputs: Sequence[str]) -> Nodes | None:
    """QLinearConv and QLinearMatMul: x, w and y, each with scale and zero; a bias of int32."""
    y, conv = one.output[0], one.op_type == "QLinearConv"
    x, (weight, scale, zero), rounding, bias = inputs[:3], inputs[3:6], inputs[6:8], inputs[8]
    scales, zeros, x_scale = work.constant(scale), work.constant(zero), work.constant(inputs[1])
    before = dict(work.grids)
    if x_scale is None or not work.take(weight, scales, zeros, 0 if conv else None) or scales is None:
        return None
    if bias and not work.take(bias, np.asarray(x_scale * scales, np.float32), np.zeros((), np.int32), 0):
        work.grids = before
        return None
    op, read = ("Conv" if conv else "MatMul"), [f"{y}@x", weight, *([bias] if bias else [])]
    return [node("DequantizeLinear", [name for name in x if name], [f"{y}@x"]), _like(one, op, read, f"{y}@float"),
            node("QuantizeLinear", [f"{y}@float", *(name for name in rounding if name)], [y])]  # fmt: skip


_RULES: Mapping[tuple[str, str], Callable[[_Twins, onnx.NodeProto, Sequence[str]], Nodes | None]] = {
    ("", "DequantizeLinear"): _dequantize,
    ("", "Gather"): _gathered,
    ("", "MatMulInteger"): _integer_product,
    ("", "ConvInteger"): _integer_product,
    ("", "QLinearConv"): _rounding_product,
    ("", "QLinearMatMul"): _rounding_product,
    (RUNTIME, "MatMulIntegerToFloat"): _to_float_product,
    (RUNTIME, "DynamicQuantizeMatMul"): _dynamic_product,
    (RUNTIME, "DynamicQuantizeLSTM"): _dynamic_lstm,
}
