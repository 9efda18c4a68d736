"""Standard QuantizeLinear/DequantizeLinear pairs: what a rounded value and an integer weight are in a file.

ONNX Runtime makes integer kernels of nodes with DequantizeLinear before and QuantizeLinear behind them; every other
runtime that knows the two operators computes the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnxopt.encoding import Affine, Array, Encoding, step_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph.normalise import fresh, names_taken, subgraphs
from onnxopt.graph.rewrite.fusion import FusedOp, fused_ops, runs_in_integers
from onnxopt.graph.rewrite.opset import OPSET, version
from onnxopt.spec.plan import Step

_STANDARD = ("int8", "uint8")
"""What QuantizeLinear makes in that version; of 16 bits the runtime's own one does."""
_TYPES = (*_STANDARD, "int16", "uint16")
_OWN = "com.microsoft"


@dataclass(frozen=True, slots=True)
class QuantParams:
    """A value x becomes ``scale (q - zero)`` with ``q = round(x / scale) + zero``, saturating at the type's bounds."""

    NAME: ClassVar[str] = "qdq"
    """Of its step."""
    scale: float
    """A float32 number."""
    zero: int
    type: str
    """One of int8, uint8, int16, uint16."""

    def __post_init__(self) -> None:
        if self.type not in _TYPES:
            raise ValueError(f"type is {self.type!r}, expected {', '.join(_TYPES)}")
        bounds = np.iinfo(self.type)
        if not bounds.min <= self.zero <= bounds.max:
            raise ValueError(f"zero is {self.zero}, expected {bounds.min} to {bounds.max}")
        if not np.finfo(np.float32).tiny <= self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}, expected a float32 number above 0")

    @classmethod
    def over(cls, low: float, high: float, kind: str) -> QuantParams:
        """The grid of a type over a range that holds 0, which is a point of it.

        The scale is rounded down in float32, so that no point lies outside of a range that ends at 0: what saturates
        there is then all that a rectifier does, and the runtime drops the rectifier.
        """
        bounds = np.iinfo(kind)
        steps = bounds.max - bounds.min
        scale = np.float32(max((high - low) / steps, 1e-30))
        if low >= 0 or high <= 0:
            end = max(high, -low)
            while np.float32(steps) * scale > np.float32(end) and scale > 1e-30:
                scale = np.nextafter(scale, np.float32(0))
        zero = bounds.min if low >= 0 else bounds.max if high <= 0 else round(bounds.min - low / float(scale))
        return cls(float(scale), min(max(zero, bounds.min), bounds.max), kind)

    @property
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest value that the grid has."""
        low, high = self.levels
        return low * self.scale, high * self.scale

    @property
    def levels(self) -> tuple[int, int]:
        """The same in steps of the scale."""
        bounds = np.iinfo(self.type)
        return int(bounds.min) - self.zero, int(bounds.max) - self.zero

    def error(self, x: Array) -> Array:
        """What rounding adds to floats, [...] as x."""
        made = x * np.float32(1 / self.scale)
        np.rint(made, out=made)
        np.clip(made, *self.levels, out=made)
        made *= np.float32(self.scale)
        made -= x
        return np.asarray(made)

    def step(self) -> Step:
        """As a plan has it."""
        return Step(self.NAME, (("scale", self.scale), ("zero", self.zero), ("type", self.type)))

    @classmethod
    def from_step(cls, step: Step) -> QuantParams:
        """Raises OnnxoptError where it is none."""
        try:
            given = dict(step.args)
            return cls(float(given.pop("scale")), int(given.pop("zero")), str(given.pop("type")), **given)
        except (KeyError, TypeError, ValueError) as error:
            raise OnnxoptError(f"step {step}: {error}; expected qdq{{scale=...,zero=...,type=...}}") from error


def check(model: onnx.ModelProto, value: str) -> None:
    """Raises OnnxoptError where a value is not there to be rounded."""
    if version(model) < OPSET:
        raise OnnxoptError(f"plan, value {value!r}: qdq needs operators of version {OPSET}, here they are of version "
                           f"{version(model)}")  # fmt: skip
    if not any(v.name == value for v in model.graph.input) and not any(value in n.output for n in model.graph.node):
        raise OnnxoptError(f"plan: no value is called {value!r}; `onnxopt plan` lists this model's")


@dataclass(frozen=True, slots=True)
class Inserted:
    """What is left to do about initializers."""

    stored: dict[str, Encoding]
    """New ones."""
    gone: set[str]
    """Those that nothing reads any more."""
    integers: set[str]
    """Weights that are int8 now."""


def insert(
    model: onnx.ModelProto,
    pairs: Mapping[str, QuantParams],
    weights: Mapping[str, Affine],
    bias: Callable[[str], Array],
) -> Inserted:
    """Rounds values of the main graph and makes weights integers, in place.

    A value that an integer node makes is rounded for all who read it; any other only for the integer nodes that do.

    Arguments:
        pairs: values by name, the user's inputs too.
        weights: those that may be stored as int8, on their grids.
        bias: the values of an initializer that is the bias of a node with such a weight.
    """
    return _Surgery(model, pairs, weights, bias).run()


class _Surgery:
    """One model's; see `insert`."""

    def __init__(
        self, model: onnx.ModelProto, pairs: Mapping[str, QuantParams], weights: Mapping[str, Affine],
        bias: Callable[[str], Array],
    ) -> None:  # fmt: skip
        self._model, self._pairs, self._weights, self._bias = model, pairs, weights, bias
        self._units = {unit.first: unit for unit in fused_ops(model)}
        running = {i: one for i, one in self._units.items() if runs_in_integers(one, pairs, weights)}
        self._running = running
        self._made = {unit.output for unit in running.values() if unit.output in pairs}
        self._taken = names_taken(model)
        self._named: dict[str, str] = {}
        """What constants are called, by what they hold."""
        self._small: dict[str, Array] = {}
        self._inserted = Inserted({}, set(), set())
        self._integers: dict[str, str] = {}
        """What QuantizeLinear makes of a value."""
        self._rounded: dict[str, str] = {}
        """What DequantizeLinear makes of that."""

    def run(self) -> Inserted:
        graph = self._model.graph
        nodes: list[NodeProto] = []
        for value in graph.input:
            if value.name in self._pairs:
                nodes += self._round(value.name, value.name)
        for index, original in enumerate(graph.node):
            node, unit = NodeProto.FromString(original.SerializeToString()), self._units.get(index)
            if index in self._running and unit is not None:
                if unit.op == "Pad" and self._pairs[unit.output].type in _STANDARD:
                    nodes += self._pad(node, unit)
                    continue
                nodes += self._weight(node, unit)
                for place, name in enumerate(node.input):
                    node.input[place] = self._rounded.get(name, name)
            elif unit is not None and unit.op in ("Conv", "Gemm", "MatMul") and unit.output in self._pairs:
                nodes += self._apart(node)
            nodes.append(node)
            for place, name in enumerate(node.output):
                if name in self._made:
                    node.output[place] = self._fresh(name, "float")
                    nodes += self._round(node.output[place], name)
                elif name in self._pairs:
                    nodes += self._round(name, name)
        del graph.node[:]
        graph.node.extend(nodes)
        self._drop_unread()
        graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self._small.items())
        if any(pair.type not in _STANDARD for pair in self._pairs.values()) and not any(
            one.domain == _OWN for one in self._model.opset_import
        ):
            self._model.opset_import.append(helper.make_opsetid(_OWN, 1))
        return self._inserted

    def _drop_unread(self) -> None:
        """Floats made of integers that only integer nodes read."""
        graph = self._model.graph
        read = {value.name for value in graph.output}
        read.update(name for one in subgraphs(graph) for node in one.node for name in node.input)
        for index in reversed(range(len(graph.node))):
            if graph.node[index].op_type == "DequantizeLinear" and read.isdisjoint(graph.node[index].output):
                del graph.node[index]

    def _round(self, x: str, value: str) -> list[NodeProto]:
        """The pair behind x, which is `value` before it is rounded."""
        pair = self._pairs[value]
        self._integers[value] = self._fresh(value, "int")
        self._rounded[value] = value if value in self._made else self._fresh(value, "rounded")
        domain = "" if pair.type in _STANDARD else _OWN
        quantize = helper.make_node(
            "QuantizeLinear", [x, *self._grid(pair)], [self._integers[value]], domain=domain
        )  # fmt: skip
        return [quantize, self._dequantize(value)]

    def _dequantize(self, value: str) -> NodeProto:
        pair = self._pairs[value]
        inputs = [self._integers[value], *self._grid(pair)]
        domain = "" if pair.type in _STANDARD else _OWN
        return helper.make_node("DequantizeLinear", inputs, [self._rounded[value]], domain=domain)

    def _pad(self, node: NodeProto, unit: FusedOp) -> list[NodeProto]:
        """The integers are padded, with the integer that stands for 0: nothing fuses a Pad between pairs."""
        pair = self._pairs[unit.output]
        zero = self._constant(f"qdq-zero-{pair.type}-{pair.zero}", np.asarray(pair.zero, pair.type))
        axes = list(node.input[3:])
        inputs = [self._integers[unit.inputs[0]], node.input[1], zero, *axes]
        self._integers[unit.output], self._rounded[unit.output] = self._fresh(unit.output, "int"), unit.output
        del node.input[:]
        node.input.extend(inputs)
        node.output[0] = self._integers[unit.output]
        return [node, self._dequantize(unit.output)]

    def _weight(self, node: NodeProto, unit: FusedOp) -> list[NodeProto]:
        """What makes the weight and the bias of integers."""
        if unit.weight is None:
            return []
        path, leaf = unit.weight, self._weights[unit.weight]
        outputs = leaf.q.shape[leaf.axis]
        k = np.broadcast_to(leaf.k, outputs)
        ones = np.ones(outputs, np.int32)
        scales = self._store(path, "scale", Affine(ones, k.astype(np.int16), 0, np.dtype(np.float32)))
        made = [helper.make_node("DequantizeLinear", [path, scales, self._zeros(outputs, "int8")],
                                 [self._fresh(path, "rounded")], axis=leaf.axis)]  # fmt: skip
        for tensor in self._model.graph.initializer:
            if tensor.name == path:
                tensor.data_type = onnx.TensorProto.INT8
        self._inserted.integers.add(path)
        node.input[1] = made[0].output[0]
        if unit.bias is not None:
            scale = np.float32(self._pairs[unit.inputs[0]].scale) * step_of(np.asarray(k, np.int16))
            bias = np.rint(self._bias(unit.bias).astype(np.float64) / scale)
            integers = np.clip(bias, -(2**31), 2**31 - 1).astype(np.int32)
            names = [self._store(unit.bias, "int", integers), self._store(unit.bias, "scale", scale)]
            rounded, zeros = self._fresh(unit.bias, "rounded"), self._zeros(outputs, "int32")
            made.append(helper.make_node("DequantizeLinear", [*names, zeros], [rounded], axis=0))
            node.input[2] = rounded
            self._inserted.gone.add(unit.bias)
        return made

    def _apart(self, node: NodeProto) -> list[NodeProto]:
        """A float node between two pairs reads through a Clip that changes nothing.

        Newer ONNX Runtimes round the weights of such a node to 8 bits (docs/decisions/0003).
        """
        x = node.input[0]
        if x not in self._made:
            return []
        low, high = (self._constant(f"{x}@{end}", np.asarray(bound, np.float32))
                     for end, bound in zip(("low", "high"), self._pairs[x].reach, strict=True))  # fmt: skip
        node.input[0] = self._fresh(x, "clipped")
        return [helper.make_node("Clip", [x, low, high], [node.input[0]])]

    def _grid(self, pair: QuantParams) -> list[str]:
        """Names of the scale and the zero."""
        scale, zero = np.asarray(pair.scale, np.float32), np.asarray(pair.zero, pair.type)
        return [
            self._constant(f"qdq-scale-{pair.scale:.9g}", scale),
            self._constant(f"qdq-zero-{pair.type}-{pair.zero}", zero),
        ]

    def _zeros(self, count: int, kind: str) -> str:
        """Zero points, one vector for all of a length."""
        return self._constant(f"qdq-zeros-{kind}-{count}", np.zeros(count, kind))

    def _constant(self, name: str, array: Array) -> str:
        """One initializer for all that are equal; the name says what it holds."""
        if name not in self._named:
            self._named[name] = fresh(name, self._taken)
            self._small[self._named[name]] = array
        return self._named[name]

    def _store(self, path: str, part: str, leaf: Encoding) -> str:
        name = self._fresh(path, part)
        self._inserted.stored[name] = leaf
        return name

    def _fresh(self, value: str, part: str) -> str:
        return fresh(f"{value}@{part}", self._taken)
