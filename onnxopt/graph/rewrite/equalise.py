"""Cross-layer equalization: the channels of a value get similar ranges, so that one range suits them all.

The channels of a layer can be multiplied by positive scales and the next layer's weights by their inverses: rectifiers
and pools commute with such scales (Nagel et al. 2019, Data-free quantization, section 4.1). A channel of small values
uses few of the tensor's integers; scaled up, it uses more. This costs nothing if the second layer is depthwise with a
scale for each channel. Otherwise the columns of the second layer become less alike, and both effects are balanced
(ibid., eq. 11; Xiao et al. 2022, SmoothQuant, eq. 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.data import quiet_session
from onnxopt.encoding import Array
from onnxopt.files.set_aside import elements_of
from onnxopt.graph.inspect.expose import expose
from onnxopt.graph.normalise import subgraphs

Floats = npt.NDArray[np.float64]

_ROOM = 0.9
"""Share of a Clip's bound that scaled channels may reach, as other inputs have larger values."""
_MOST = 64.0
"""Largest scale of a channel: a channel near 0 on the data may be larger on other inputs."""
_RECTIFIERS = ("Relu", "LeakyRelu", "PRelu", "Clip")
_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Two consecutive layers and the value between them."""

    first: str
    """The weight whose outputs are scaled..."""
    bias: str | None
    """...with its bias."""
    value: str
    """The first layer's rectified output, which is quantized."""
    second: str
    """The weight whose inputs are scaled by the inverse."""
    bound: float
    """The upper bound of a Clip; infinite without one."""
    outputs: int
    """The channels' axis in the first weight."""
    inputs: int
    """The channels' axis in the second weight."""
    groups: int
    """Of the second layer."""
    channels: int

    @property
    def depthwise(self) -> bool:
        """Whether each output of the second layer has one channel as its input."""
        return self.groups == self.channels


def neighbours(model: onnx.ModelProto) -> list[Neighbours]:
    """Pairs of Conv or Gemm in a normalised model's main graph, in graph order, between which scales cancel exactly.

    Only rectifiers, pools, flattening, and padding with zeros may stand between them; nothing else reads the weights
    or the values between.
    """
    return _Finder(model).pairs()


def channel_peaks(
    model: onnx.ModelProto, values: Sequence[str], feeds: Iterable[Mapping[str, Array]]
) -> dict[str, Floats]:
    """Largest magnitude in each channel (axis 1) of these values over all feeds; only the maxima leave the runtime."""
    if not values:
        return {}
    nodes = [helper.make_node("Constant", [], ["@shape"], value=numpy_helper.from_array(np.array([0, 0, -1])))]
    for value in values:
        nodes += [
            helper.make_node("Abs", [value], [f"{value}@abs"]),
            helper.make_node("Reshape", [f"{value}@abs", "@shape"], [f"{value}@flat"]),
            helper.make_node("GlobalMaxPool", [f"{value}@flat"], [f"{value}@peaks"]),
        ]
    session = quiet_session(expose(model, [f"{value}@peaks" for value in values], nodes))
    largest: dict[str, Floats] = {}
    for feed in feeds:
        for value, found in zip(values, session.run(None, dict(feed)), strict=True):
            peaks = found.max((0, 2)).astype(np.float64)
            largest[value] = np.fmax(largest.get(value, peaks), peaks)
    return largest


def equalize(model: onnx.ModelProto, peaks: Mapping[str, Floats]) -> list[tuple[Neighbours, Floats]]:
    """Scales channels in place where that helps; returns the pairs and the scales of their channels.

    On inputs within `peaks` the outputs stay the same but for rounding: a channel that reaches a Clip's bound keeps its
    scale, and no other channel is scaled up to the bound.

    Arguments:
        peaks: `channel_peaks` of the pairs' values; pairs without peaks stay as they are.
    """
    tensors = {t.name: t for t in model.graph.initializer}
    changed = []
    for pair in neighbours(model):
        first, second = (elements_of(tensors[name]) for name in (pair.first, pair.second))
        reach = peaks.get(pair.value)
        if reach is None or reach.shape != (pair.channels,):
            continue
        factors = _factors(pair, reach, second)
        if (factors == 1).all():
            continue
        scaled = {pair.first: first * _along(factors, first.ndim, pair.outputs)}
        scaled[pair.second] = _columns_scaled(pair, second, 1 / factors)
        if pair.bias is not None:
            bias = elements_of(tensors[pair.bias])
            scaled[pair.bias] = bias * factors.reshape(-1)
        arrays = {name: array.astype(np.float32) for name, array in scaled.items()}
        if not all(np.isfinite(array).all() for array in arrays.values()):
            continue
        for name, array in arrays.items():
            tensors[name].CopyFrom(numpy_helper.from_array(array.reshape(tuple(tensors[name].dims)), name))
        changed.append((pair, factors))
    return changed


def _factors(pair: Neighbours, reach: Floats, second: Array) -> Floats:
    """A positive scale for each channel; 1 if the channel is dead or reaches the bound."""
    free = (reach > 0) & np.isfinite(reach) & (reach < pair.bound * (1 - 1e-6))
    if not free.any():
        return np.ones(pair.channels)
    if pair.depthwise:
        wanted = 1 / np.where(free, reach, 1)
    else:
        columns = _column_ranges(pair, second)
        free &= columns > 0
        # Nagel et al., eq. 11: the ranges of a channel of the value and of the weight's column become equal.
        wanted = np.sqrt(np.where(free, columns, 1) / np.where(free, reach, 1))
    top = float(reach[np.isfinite(reach)].max())
    scaled = np.where(free, wanted * reach, 0)
    if not scaled.any():
        return np.ones(pair.channels)
    factors = wanted * (top / scaled.max())
    most = np.minimum(_MOST, pair.bound * _ROOM / np.where(free, reach, 1))
    return np.where(free, np.minimum(factors, np.maximum(most, 1)), 1.0)


def _column_ranges(pair: Neighbours, second: Array) -> Floats:
    """Largest magnitude of the second weight in each channel's column, relative to the largest of its row.

    Relative, because each row has its own scale.
    """
    w = np.abs(_grouped(pair, second).astype(np.float64))  # [groups, outputs, channels, rest]
    rows = w.max((2, 3), keepdims=True)
    return np.asarray((w / np.where(rows > 0, rows, 1)).max((1, 3)).reshape(-1))


def _grouped(pair: Neighbours, second: Array) -> Array:
    """The second weight as ``[groups, outputs, channels, rest]``."""
    w = np.moveaxis(second, pair.inputs, 1)
    return w.reshape(pair.groups, w.shape[0] // pair.groups, pair.channels // pair.groups, -1)


def _columns_scaled(pair: Neighbours, second: Array, factors: Floats) -> Array:
    scaled = _grouped(pair, second) * factors.reshape(pair.groups, 1, -1, 1)
    shape = np.moveaxis(second, pair.inputs, 1).shape
    return np.ascontiguousarray(np.moveaxis(scaled.reshape(shape), 1, pair.inputs))


def _along(factors: Floats, rank: int, axis: int) -> Floats:
    return factors.reshape(tuple(-1 if a == axis else 1 for a in range(rank)))


@dataclass(frozen=True, slots=True)
class _Layer:
    weight: str
    bias: str | None
    outputs: int
    """Axis of the weight."""
    channels: int
    """Number of outputs."""


class _Finder:
    """Finds the next layer of each layer."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._nodes = list(model.graph.node)
        self._tensors = {t.name: t for t in model.graph.initializer}
        self._uses: dict[str, list[NodeProto | None]] = {}
        for graph in subgraphs(model.graph):
            for node in graph.node:
                for name in node.input:
                    self._uses.setdefault(name, []).append(node if graph is model.graph else None)
        for value in (*model.graph.output, *model.graph.input):  # an initializer that may be fed is not a constant
            self._uses.setdefault(value.name, []).append(None)

    def pairs(self) -> list[Neighbours]:
        found = (self._pair(layer, node.output[0]) for node in self._nodes if (layer := self._layer(node)))
        return [pair for pair in found if pair is not None]

    def _layer(self, node: NodeProto) -> _Layer | None:
        """The node's layer, if its weight and bias can scale its outputs."""
        if node.op_type not in ("Conv", "Gemm") or node.domain not in ("", "ai.onnx"):
            return None
        weight = self._own(node.input[1])
        outputs = 0 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 1
        if weight is None:
            return None
        channels = int(weight.dims[outputs])
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None:
            tensor = self._own(bias)
            if tensor is None or prod(tensor.dims) != channels or (tensor.dims and tensor.dims[-1] != channels):
                return None
        return _Layer(node.input[1], bias, outputs, channels)

    def _pair(self, layer: _Layer, value: str) -> Neighbours | None:
        rectified, bound, pooled, alone = value, float("inf"), False, False
        while (node := self._only_user(value)) is not None:
            if node.op_type in ("Conv", "Gemm"):
                return self._second(layer, node, rectified, bound)
            if node.op_type in _RECTIFIERS:
                end = self._end(node)
                if end is None or pooled:
                    return None
                bound, rectified = min(bound, end), node.output[0]
            elif node.op_type in _POOLS or self._moves_nothing(node, alone, layer.channels):
                pooled |= node.op_type in _POOLS
                alone |= node.op_type.startswith("Global")
            else:
                return None
            value = node.output[0]
        return None

    def _second(self, first: _Layer, node: NodeProto, value: str, bound: float) -> Neighbours | None:
        weight = self._own(node.input[1])
        if weight is None:
            return None
        groups = int(_attribute(node, "group", 1))
        inputs = 1 if node.op_type == "Conv" or _attribute(node, "transB", 0) else 0
        taken = int(weight.dims[inputs]) * groups
        # A flattened channel has one column for each position.
        fits = taken == first.channels if node.op_type == "Conv" else taken % first.channels == 0
        if not fits or _attribute(node, "transA", 0):
            return None
        return Neighbours(first.weight, first.bias, value, node.input[1], bound, first.outputs, inputs, groups,
                    first.channels)  # fmt: skip

    def _own(self, name: str) -> TensorProto | None:
        """The float32 initializer of this name, if it has one use."""
        tensor = self._tensors.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or len(self._uses.get(name, [])) != 1:
            return None
        return tensor

    def _only_user(self, value: str) -> NodeProto | None:
        """The only node that reads the value, if the value is its first input and it has one output."""
        uses = self._uses.get(value, [])
        node = uses[0] if len(uses) == 1 else None
        if node is None or node.domain not in ("", "ai.onnx") or node.input[0] != value or len(node.output) != 1:
            return None
        return node

    def _end(self, node: NodeProto) -> float | None:
        """The upper bound of a rectifier; None if it does not commute with scales."""
        if node.op_type != "Clip":
            return float("inf")
        low = _attribute(node, "min", -np.inf) if len(node.input) < 2 else self._scalar(node.input[1], -np.inf)
        high = _attribute(node, "max", np.inf) if len(node.input) < 3 else self._scalar(node.input[2], np.inf)
        return high if low is not None and high is not None and low in (0, -np.inf) and high > 0 else None

    def _scalar(self, name: str, otherwise: float) -> float | None:
        if not name:
            return otherwise
        tensor = self._tensors.get(name)
        return float(elements_of(tensor).reshape(-1)[0]) if tensor is not None else None

    def _moves_nothing(self, node: NodeProto, alone: bool, channels: int) -> bool:
        """Whether channels stay in order: padded with zeros, flattened, or single numbers (`alone`) reshaped."""
        if node.op_type == "Flatten":
            return bool(_attribute(node, "axis", 1) == 1)
        if node.op_type == "Pad":
            return self._pads_zeros(node)
        if node.op_type == "Reshape" and alone:
            tensor = self._tensors.get(node.input[1])
            shape = elements_of(tensor).tolist() if tensor is not None else []
            first, second, rest = shape[:1], shape[1:2], shape[2:]
            return all(n == 1 for n in rest) and (
                (first in ([0], [-1]) and second == [channels]) or (first == [0] and second == [-1])
            )
        return False

    def _pads_zeros(self, node: NodeProto) -> bool:
        if _attribute(node, "mode", b"constant") != b"constant" or len(node.input) > 3:
            return False
        pads, value = _attribute(node, "pads", None), _attribute(node, "value", 0.0)
        if len(node.input) > 1:
            tensor = self._tensors.get(node.input[1])
            pads = elements_of(tensor).tolist() if tensor is not None else None
            value = self._scalar(node.input[2], 0.0) if len(node.input) > 2 else 0.0
        return bool(pads and value == 0 and len(pads) >= 4 and pads[1] == pads[len(pads) // 2 + 1] == 0)


def _attribute(node: NodeProto, name: str, otherwise: Any) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return otherwise
