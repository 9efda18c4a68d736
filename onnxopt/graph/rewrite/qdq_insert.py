"""QuantizeLinear and DequantizeLinear (QDQ) around nodes that run in INT8, and their INT8 weights.

ONNX Runtime makes an integer kernel of a node with DequantizeLinear before it and QuantizeLinear behind it. Every other
runtime that knows the two operators computes the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnxopt.encoding import Affine, Array, Encoding, Raw, step_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph.normalise import fresh, names_taken, subgraphs
from onnxopt.graph.rewrite.fusion import FusedOp, fused_ops, runs_in_integers
from onnxopt.graph.rewrite.opset import OPSET, version
from onnxopt.graph.rewrite.qdq import STANDARD_TYPES, QuantParams

_OWN = "com.microsoft"


def check(model: onnx.ModelProto, value: str) -> None:
    """Raises OnnxoptError where the model has no such value, or its opset is too old for QDQ nodes."""
    if version(model) < OPSET:
        raise OnnxoptError(f"plan, value {value!r}: qdq needs operators of version {OPSET}, here they are of version "
                           f"{version(model)}")  # fmt: skip
    if not any(v.name == value for v in model.graph.input) and not any(value in n.output for n in model.graph.node):
        raise OnnxoptError(f"plan: no value is called {value!r}; `onnxopt plan` lists this model's")


@dataclass(frozen=True, slots=True)
class Inserted:
    """What the caller has to do about initializers."""

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
    """Rounds values of the main graph and turns weights into INT8, in place.

    The output of an integer node is rounded for all its readers; any other value only for integer nodes.

    Arguments:
        pairs: values by name, the user's inputs too.
        weights: those that may be stored as int8, on their grids.
        bias: gives the values of an initializer that is the bias of a node with such a weight.
    """
    return _Inserter(model, pairs, weights, bias).run()


class _Inserter:
    """Inserts the nodes into one model; see `insert`."""

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
        """The names of constants, by content."""
        self._small: dict[str, Array] = {}
        self._inserted = Inserted({}, set(), set())
        self._integers: dict[str, str] = {}
        """The output of a value's QuantizeLinear."""
        self._rounded: dict[str, str] = {}
        """The output of its DequantizeLinear."""

    def run(self) -> Inserted:
        graph = self._model.graph
        nodes: list[NodeProto] = []
        for value in graph.input:
            if value.name in self._pairs:
                nodes += self._round(value.name, value.name)
        for index, original in enumerate(graph.node):
            node, unit = NodeProto.FromString(original.SerializeToString()), self._units.get(index)
            if index in self._running and unit is not None:
                if unit.op == "Pad" and self._pairs[unit.output].type in STANDARD_TYPES:
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
        if any(pair.type not in STANDARD_TYPES for pair in self._pairs.values()) and not any(
            one.domain == _OWN for one in self._model.opset_import
        ):
            self._model.opset_import.append(helper.make_opsetid(_OWN, 1))
        return self._inserted

    def _drop_unread(self) -> None:
        """Removes DequantizeLinear nodes whose outputs nothing reads."""
        graph = self._model.graph
        read = {value.name for value in graph.output}
        read.update(name for one in subgraphs(graph) for node in one.node for name in node.input)
        for index in reversed(range(len(graph.node))):
            if graph.node[index].op_type == "DequantizeLinear" and read.isdisjoint(graph.node[index].output):
                del graph.node[index]

    def _round(self, x: str, value: str) -> list[NodeProto]:
        """The QDQ pair behind x, which is `value` before it is rounded."""
        pair = self._pairs[value]
        self._integers[value] = self._fresh(value, "int")
        self._rounded[value] = value if value in self._made else self._fresh(value, "rounded")
        domain = "" if pair.type in STANDARD_TYPES else _OWN
        quantize = helper.make_node(
            "QuantizeLinear", [x, *self._grid(pair)], [self._integers[value]], domain=domain
        )  # fmt: skip
        return [quantize, self._dequantize(value)]

    def _dequantize(self, value: str) -> NodeProto:
        pair = self._pairs[value]
        inputs = [self._integers[value], *self._grid(pair)]
        domain = "" if pair.type in STANDARD_TYPES else _OWN
        return helper.make_node("DequantizeLinear", inputs, [self._rounded[value]], domain=domain)

    def _pad(self, node: NodeProto, unit: FusedOp) -> list[NodeProto]:
        """Pads the integers with the zero point: no runtime fuses a Pad between QDQ pairs."""
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
        """The nodes that dequantize the weight and the bias."""
        if unit.weight is None:
            return []
        path, weight = unit.weight, self._weights[unit.weight]
        # One step for all weights says nothing of an axis, and kernels of products know steps of outputs alone.
        axis = weight.q.ndim - 1 if node.op_type == "MatMul" and weight.k.size == 1 else weight.axis
        outputs = weight.q.shape[axis]
        k = np.broadcast_to(weight.k, outputs)
        ones = np.ones(outputs, np.int32)
        scales = self._store(path, "scale", Affine(ones, k.astype(np.int16), 0, np.dtype(np.float32)))
        made = [helper.make_node("DequantizeLinear", [path, scales, self._zeros(outputs, "int8")],
                                 [self._fresh(path, "rounded")], axis=axis)]  # fmt: skip
        for tensor in self._model.graph.initializer:
            if tensor.name == path:
                tensor.data_type = onnx.TensorProto.INT8
        self._inserted.integers.add(path)
        node.input[1] = made[0].output[0]
        if unit.bias is not None:
            scale = np.float32(self._pairs[unit.inputs[0]].scale) * step_of(np.asarray(k, np.int16))
            bias = np.rint(self._bias(unit.bias).astype(np.float64) / scale)
            integers = np.clip(bias, -(2**31), 2**31 - 1).astype(np.int32)
            names = [self._store(unit.bias, "int", Raw(integers)), self._store(unit.bias, "scale", Raw(scale))]
            rounded, zeros = self._fresh(unit.bias, "rounded"), self._zeros(outputs, "int32")
            made.append(helper.make_node("DequantizeLinear", [*names, zeros], [rounded], axis=0))
            node.input[2] = rounded
            self._inserted.gone.add(unit.bias)
        return made

    def _apart(self, node: NodeProto) -> list[NodeProto]:
        """A Clip that changes nothing, before a float node between two QDQ pairs.

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
        """Names of the scale and the zero point."""
        scale, zero = np.asarray(pair.scale, np.float32), np.asarray(pair.zero, pair.type)
        return [
            self._constant(f"qdq-scale-{pair.scale:.9g}", scale),
            self._constant(f"qdq-zero-{pair.type}-{pair.zero}", zero),
        ]

    def _zeros(self, count: int, kind: str) -> str:
        """The name of a vector of zero points, one for each length."""
        return self._constant(f"qdq-zeros-{kind}-{count}", np.zeros(count, kind))

    def _constant(self, name: str, array: Array) -> str:
        """The name of an initializer that all equal constants share; the name says what it holds."""
        if name not in self._named:
            self._named[name] = fresh(name, self._taken)
            self._small[self._named[name]] = array
        return self._named[name]

    def _store(self, path: str, part: str, encoding: Encoding) -> str:
        name = self._fresh(path, part)
        self._inserted.stored[name] = encoding
        return name

    def _fresh(self, value: str, part: str) -> str:
        return fresh(f"{value}@{part}", self._taken)
