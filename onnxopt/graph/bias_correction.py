"""What quantizing adds to layers' outputs on average, to be taken off their biases.

Rounded weights and clipped values shift the mean of a layer's outputs, channel by channel; most of the noise of a
depthwise layer with few weights is such a shift. It is measured on data, and costs nothing to take off (Nagel et al.
2019, Data-free quantization, section 4.2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.data import quiet_session
from onnxopt.graph.exposing import exposing
from onnxopt.leaf import Array

Floats = npt.NDArray[np.float64]
Pieces = Callable[[], Iterable[Mapping[str, Array]]]
"""Feeds for both models, the same ones each time."""


def bias_corrections(
    model: onnx.ModelProto, quantized: onnx.ModelProto, pieces: Pieces, sweeps: int = 1
) -> dict[str, Array]:
    """What to add to biases, by their initializers' names in `model`; float32 ``[channels]``.

    In the quantized model each layer runs beside itself as it was, on the same input before that was rounded: what
    differs on average is the layer's own doing. (Of differences from the whole model as it was, most comes from layers
    before, which are corrected themselves; taken off everywhere at once, such errors multiply.) Later passes see inputs
    that have been corrected; in 8 bits that changes hardly anything.

    Arguments:
        model: as it is; Conv and Gemm whose bias is an initializer of their own are looked at.
        quantized: the same, with values of the same names, which may be rounded by QuantizeLinear and
            DequantizeLinear: what a layer gave before that is corrected.
        sweeps: passes over the data.

    Raises what the runtime raises where a model does not run.
    """
    layers = _layers(model, quantized)
    if not layers:
        return {}
    beside = _Means(_beside(model, quantized, layers), [f"{layer.raw}@error" for layer in layers])
    added = [np.zeros(layer.channels) for layer in layers]
    for _ in range(sweeps):
        fed = {f"{layer.raw}@correction": change.reshape(layer.shape).astype(np.float32)
               for layer, change in zip(layers, added, strict=True)}  # fmt: skip
        errors = beside.over({**feeds, **fed} for feeds in pieces())
        added = [change - np.where(np.isfinite(error), error, 0) for change, error in zip(added, errors, strict=True)]
    return {layer.bias: change.astype(np.float32) for layer, change in zip(layers, added, strict=True)}


@dataclass(frozen=True, slots=True)
class _Layer:
    bias: str
    node: NodeProto
    """As it was."""
    x: str
    """Its input in the quantized model, before that is rounded."""
    raw: str
    """What it gives there, before that is rounded."""
    shape: tuple[int, ...]
    """In which a number for each channel is added to that."""

    @property
    def channels(self) -> int:
        return prod(self.shape)


def _layers(model: onnx.ModelProto, quantized: onnx.ModelProto) -> list[_Layer]:
    """Layers with a bias, in graph order."""
    tensors = {t.name: t for t in model.graph.initializer}
    uses = [name for node in model.graph.node for name in node.input]
    makers = {name: node for node in quantized.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm") or len(node.input) < 3:
            continue
        bias, weight = tensors.get(node.input[2]), tensors.get(node.input[1])
        if bias is None or weight is None or bias.data_type != TensorProto.FLOAT or len(bias.dims) != 1:
            continue
        maker = makers.get(_unrounded(node.output[0], makers))
        if maker is not None and maker.op_type == node.op_type and uses.count(bias.name) == 1:
            shape = (bias.dims[0], *(1,) * (len(weight.dims) - 2))
            found.append(_Layer(bias.name, node, _unrounded(maker.input[0], makers), maker.output[0], shape))
    return found


def _unrounded(value: str, makers: Mapping[str, NodeProto]) -> str:
    """What the value was before QuantizeLinear and DequantizeLinear."""
    while (node := makers.get(value)) is not None and node.op_type in ("QuantizeLinear", "DequantizeLinear"):
        value = node.input[0]
    return value


def _beside(model: onnx.ModelProto, quantized: onnx.ModelProto, layers: Sequence[_Layer]) -> onnx.ModelProto:
    """The quantized model, to whose layers' outputs an input ``raw@correction`` is added, and ``raw@error`` made:
    what they then differ by from what the layer as it was makes of the same input."""
    opened = onnx.ModelProto()
    opened.CopyFrom(quantized)
    by_output = {layer.raw: layer for layer in layers}
    tensors = {t.name: t for t in model.graph.initializer}
    nodes = []
    for node in opened.graph.node:
        nodes.append(node)
        layer = by_output.get(node.output[0] if node.output else "")
        if layer is None:
            continue
        raw = layer.raw
        node.output[0] = f"{raw}@uncorrected"
        was = NodeProto.FromString(layer.node.SerializeToString())
        was.input[:] = [layer.x, *(f"{raw}@{name}" for name in was.input[1:])]
        was.name = was.output[0] = f"{raw}@wanted"
        nodes += [
            helper.make_node("Add", [node.output[0], f"{raw}@correction"], [raw]),
            was,
            helper.make_node("Sub", [raw, was.output[0]], [f"{raw}@error"]),
        ]
        opened.graph.input.append(helper.make_tensor_value_info(f"{raw}@correction", TensorProto.FLOAT, layer.shape))
        for name in layer.node.input[1:]:
            tensor = opened.graph.initializer.add()
            tensor.CopyFrom(tensors[name])
            tensor.name = f"{raw}@{name}"
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del opened.graph.node[:]
    opened.graph.node.extend(copies)
    return opened


class _Means:
    """Means of values by channel, axis 1, which the runtime sums up: values themselves are not kept."""

    def __init__(self, model: onnx.ModelProto, values: Sequence[str]) -> None:
        shape = numpy_helper.from_array(np.array([0, 0, -1]))
        nodes = [helper.make_node("Constant", [], ["@flat"], value=shape)]
        for value in values:
            nodes += [
                helper.make_node("Reshape", [value, "@flat"], [f"{value}@flat"]),
                helper.make_node("GlobalAveragePool", [f"{value}@flat"], [f"{value}@mean"]),
            ]
        self._session = quiet_session(exposing(model, [f"{value}@mean" for value in values], nodes))

    def over(self, pieces: Iterable[Mapping[str, Array]]) -> list[Floats]:
        """For each value, over all samples, each as much as the others."""
        totals: list[Floats] | None = None
        samples = 0
        for feeds in pieces:
            found = self._session.run(None, dict(feeds))
            made = [array[..., 0].sum(0, dtype=np.float64) for array in found]
            totals = made if totals is None else [a + b for a, b in zip(totals, made, strict=True)]
            samples += len(found[0])
        return [total / samples for total in totals or []]
