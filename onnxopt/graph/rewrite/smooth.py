"""Smoothing: the channels that matrix products read get similar ranges, so that one range suits them all.

A channel of the products' input is divided by a scale, and the rows of their weights that it meets are multiplied by
the same (Xiao et al. 2023, SmoothQuant, arXiv 2211.10438, eq. 3 and 4). The scale is the root of the channel's peak,
relative to the geometric mean over channels. Scales are powers of two, so that floats compute the same to the bit.

The few channels with the largest peaks may go apart: a small product in floats multiplies them, and the others are
rounded without them (Dettmers et al. 2022, LLM.int8(), arXiv 2208.07339, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnxopt.data import chosen_session
from onnxopt.encoding import Array
from onnxopt.files.set_aside import elements_of
from onnxopt.graph.inspect.expose import expose
from onnxopt.graph.rewrite.fusion import FusedOp, fused_ops

Floats = npt.NDArray[np.float64]

_STRENGTH = 0.5
"""Exponent of the peaks: 0 changes nothing; with 1 all channels have the same peak, and rows of weights differ most."""
_LEAST = 1e-4
"""Of the largest peak: a channel near 0 on the data may be larger on other inputs."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """What is done to a value for the products that read it."""

    scales: Array
    """float32 [channels]: what channels are divided by"""
    apart: tuple[int, ...] = ()
    """Channels that go apart, in ascending order."""

    @property
    def factors(self) -> Array:
        """What channels are multiplied by, float32 ``[channels]``: 0 for those that go apart."""
        factors = 1 / self.scales
        factors[list(self.apart)] = 0
        return np.asarray(factors)


@dataclass(frozen=True, slots=True)
class ChannelRanges:
    """Ranges of a value over its last axis, one row for each run of the model."""

    low: Floats
    """[runs, channels], at most 0"""
    high: Floats
    """[runs, channels], at least 0"""

    def smoothing(self, apart: int) -> Smoothing:
        """How the value is smoothed, with so many channels apart.

        A value without peaks, or with infinite ones, stays as it is.
        """
        peaks = np.maximum(self.high, -self.low).max(0)
        if not (np.isfinite(peaks).all() and peaks.any()):
            return Smoothing(np.ones(len(peaks), np.float32))
        order = np.argsort(-peaks, kind="stable")
        alone = np.sort(order[:apart])
        peaks[alone] = np.median(peaks)
        wanted = _STRENGTH * np.log2(np.maximum(peaks, _LEAST * peaks.max()))
        return Smoothing(np.exp2(np.rint(wanted - wanted.mean())).astype(np.float32), tuple(alone.tolist()))

    def squared_range(self, smoothing: Smoothing) -> float:
        """Squared range of the whole smoothed value, mean over runs."""
        low, high = self.low * smoothing.factors, self.high * smoothing.factors
        return float(np.square(high.max(1) - low.min(1)).mean())


def smoothed(value: str) -> str:
    """The name of the value that products read instead."""
    return f"{value}@smoothed"


def products(model: onnx.ModelProto) -> dict[str, list[FusedOp]]:
    """By value, the matrix products of the main graph that multiply it by a float matrix of their own."""
    found: dict[str, list[FusedOp]] = {}
    for op in fused_ops(model):
        if op.op in ("MatMul", "Gemm") and op.weight is not None and len(op.inputs) == 1:
            found.setdefault(op.inputs[0], []).append(op)
    return found


def channel_ranges(
    model: onnx.ModelProto, channels: Mapping[str, int], feeds: Iterable[Mapping[str, Array]]
) -> dict[str, ChannelRanges]:
    """Ranges of values over their last axis, whose length is given; only the extremes leave the runtime."""
    if not channels:
        return {}
    nodes: list[NodeProto] = []
    for value, length in channels.items():
        shape = numpy_helper.from_array(np.array([-1, length]))
        nodes += [
            helper.make_node("Constant", [], [f"{value}@shape"], value=shape),
            helper.make_node("Reshape", [value, f"{value}@shape"], [f"{value}@rows"]),
            helper.make_node("ReduceMin", [f"{value}@rows", "@first"], [f"{value}@low"], keepdims=0),
            helper.make_node("ReduceMax", [f"{value}@rows", "@first"], [f"{value}@high"], keepdims=0),
        ]
    _reduce_over_first(model, nodes)
    names = [f"{value}@{end}" for value in channels for end in ("low", "high")]
    session = chosen_session(expose(model, names, nodes))
    runs = [session.run(names, dict(feed)) for feed in feeds]
    ends = {name: np.array([run[i] for run in runs], np.float64) for i, name in enumerate(names)}
    return {
        value: ChannelRanges(np.minimum(ends[f"{value}@low"], 0), np.maximum(ends[f"{value}@high"], 0))
        for value in channels
    }


def _reduce_over_first(model: onnx.ModelProto, nodes: list[NodeProto]) -> None:
    """Axes of reductions are an attribute before version 18 of the operators, then an input."""
    opset = max(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    for node in nodes:
        if node.op_type.startswith("Reduce") and opset < 18:
            del node.input[1]
            node.attribute.append(helper.make_attribute("axes", [0]))
    if opset >= 18:
        nodes.insert(0, helper.make_node("Constant", [], ["@first"], value=numpy_helper.from_array(np.array([0]))))


def smooth(model: onnx.ModelProto, smoothings: Mapping[str, Smoothing]) -> None:
    """Lets the products of these values read them smoothed, in place.

    The rows of a weight that meet channels apart become zeros; a weight ``weight@apart`` holds them.
    """
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    reading = {op.first: op for value, ops in products(model).items() if value in smoothings for op in ops}
    nodes: list[NodeProto] = []
    made = set[str]()
    for index, original in enumerate(model.graph.node):
        node, op = NodeProto.FromString(original.SerializeToString()), reading.get(index)
        if op is None or op.weight is None:
            nodes.append(node)
            continue
        value, smoothing = op.inputs[0], smoothings[op.inputs[0]]
        if value not in made:
            made.add(value)
            nodes += _changed(model, value, smoothing)
        node.input[0] = smoothed(value)
        weight = tensors[op.weight]
        values, transposed = elements_of(weight), _is_transposed(node)
        rows = values.T if transposed else values
        scaled = rows * (smoothing.scales * (smoothing.factors > 0))[:, None]
        weight.CopyFrom(_tensor(scaled.T if transposed else scaled, op.weight))
        nodes += _with_rest(model, node, value, op.weight, rows[list(smoothing.apart)])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _changed(model: onnx.ModelProto, value: str, smoothing: Smoothing) -> list[NodeProto]:
    """The nodes that multiply a value by the factors of its channels, and that take those which go apart."""
    factors = _tensor(smoothing.factors, f"{value}@factors")
    model.graph.initializer.append(factors)
    nodes = [helper.make_node("Mul", [value, factors.name], [smoothed(value)], smoothed(value))]
    if smoothing.apart:
        places = numpy_helper.from_array(np.array(smoothing.apart), f"{value}@places")
        model.graph.initializer.append(places)
        nodes.append(helper.make_node("Gather", [value, places.name], [f"{value}@apart"], f"{value}@apart", axis=-1))
    return nodes


def _with_rest(model: onnx.ModelProto, node: NodeProto, value: str, path: str, rows: Array) -> list[NodeProto]:
    """A product and, added to it, that of the channels apart with these rows of its weight, if there are any."""
    if not len(rows):
        return [node]
    y = node.output[0]
    model.graph.initializer.append(_tensor(rows, f"{path}@apart"))
    node.output[0] = f"{y}@most"
    return [
        node,
        helper.make_node("MatMul", [f"{value}@apart", f"{path}@apart"], [f"{y}@rest"], f"{y}@rest"),
        helper.make_node("Add", [f"{y}@most", f"{y}@rest"], [y], f"{y}@sum"),
    ]


def _tensor(values: Array, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name)


def _is_transposed(node: NodeProto) -> bool:
    """Whether a product's weight is ``[outputs, inputs]``."""
    return any(one.name == "transB" and one.i for one in node.attribute)


def inputs_of(model: onnx.ModelProto, values: Sequence[str]) -> dict[str, int]:
    """The length of the last axis of each of these values that products read, from the products' weights."""
    dims = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    nodes, reading = model.graph.node, products(model)
    found = {}
    for value in values:
        for op in reading.get(value, [])[:1]:
            found[value] = int(dims[op.weight or ""][1 if _is_transposed(nodes[op.first]) else 0])
    return found
