"""Models with fake quantization, whose parameters are inputs, or with zeros added to values, for gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.graph.rewrite.qdq import QuantParams

_PARTS = ("inverse", "low", "high", "scale")
_OFF = 2.0**40
"""Steps in 1 at which rounding changes a float32 number by less than 1e-12: fake quantization is off."""
_MOST = float(np.finfo(np.float32).max)


def with_fake_quant(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy in which these float values of the main graph pass through ``clip(round(x / scale)) scale``.

    All readers of a value, the user included, get the result; of a model input, all nodes do. Needs opset 11.
    """
    made = _through(model, dict.fromkeys(values), _chain)
    for name in dict.fromkeys(values):
        for part in _PARTS:
            made.graph.input.append(helper.make_tensor_value_info(f"{name}@{part}", TensorProto.FLOAT, []))
    return made


def with_dynamic_rounding(model: onnx.ModelProto, values: Iterable[str]) -> onnx.ModelProto:
    """A copy in which these float values of the main graph are rounded to 8 bits by their own range in each run.

    Needs opset 11.
    """
    return _through(model, values, _dynamically_rounded)


def with_trained_rounding(
    model: onnx.ModelProto, values: Mapping[str, QuantParams], scales: Mapping[str, str]
) -> onnx.ModelProto:
    """A copy in which these float values of the main graph pass through QuantizeLinear and DequantizeLinear, whose
    scales are initializers, so that gradients reach them.

    All readers of a value, the user included, get the result; of a model input, all nodes do. Needs opset 10.

    Arguments:
        values: in the types of QuantizeLinear.
        scales: by value, the name of its scale. Values of one scale have the same parameters.
    """

    def chain(value: str, x: str, y: str) -> list[NodeProto]:
        integers, scale, zero = f"{value}@int", scales[value], f"{value}@zero"
        return [helper.make_node("QuantizeLinear", [x, scale, zero], [integers]),
                helper.make_node("DequantizeLinear", [integers, scale, zero], [y])]  # fmt: skip

    made = _through(model, values, chain)
    constants = {f"{value}@zero": np.asarray(one.zero, one.type) for value, one in values.items()}
    constants |= {scales[value]: np.asarray(one.scale, np.float32) for value, one in values.items()}
    made.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    return made


def with_zeros_added(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]]
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy in which zeros of these shapes are added to values, and the name of the zeros by that of the value.

    The gradient with respect to the zeros is the gradient with respect to the value.
    """
    zeros = {name: f"{name}@zeros" for name in shapes}
    made = _through(model, shapes, lambda value, x, y: [helper.make_node("Add", [x, zeros[value]], [y])])
    made.graph.initializer.extend(
        numpy_helper.from_array(np.zeros(shape, np.float32), zeros[name]) for name, shape in shapes.items()
    )
    return made, zeros


def _through(
    model: onnx.ModelProto, wanted: Iterable[str], chain: Callable[[str, str, str], list[NodeProto]]
) -> onnx.ModelProto:
    """A copy in which these values of the main graph pass through the nodes of ``chain(value, x, y)``, from x to y."""
    wanted, made = list(wanted), onnx.ModelProto()
    made.CopyFrom(model)
    nodes: list[NodeProto] = []
    inputs = {value.name for value in model.graph.input}
    renamed = {name: f"{name}@changed" for name in wanted if name in inputs}
    for name, new in renamed.items():
        nodes += chain(name, name, new)
    for original in model.graph.node:
        node = NodeProto.FromString(original.SerializeToString())
        for place, name in enumerate(node.input):
            node.input[place] = renamed.get(name, name)
        nodes.append(node)
        for place, name in enumerate(node.output):
            if name in wanted:
                node.output[place] = f"{name}@exact"
                nodes += chain(name, node.output[place], name)
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return made


def _dynamically_rounded(value: str, x: str, y: str) -> list[NodeProto]:
    grid = [f"{value}@{part}" for part in ("int", "scale", "zero")]
    return [helper.make_node("DynamicQuantizeLinear", [x], grid), helper.make_node("DequantizeLinear", grid, [y])]


def settings(values: Iterable[str], pairs: Mapping[str, QuantParams]) -> dict[str, Array]:
    """Feeds for the fake quantization of these values; it is off for those without parameters in `pairs`."""
    feeds = {}
    for value in values:
        pair = pairs.get(value)
        parts = (_OFF, -_MOST, _MOST, 1 / _OFF)
        if pair is not None:
            parts = (1 / pair.scale, *pair.levels, pair.scale)
        feeds.update({f"{value}@{part}": np.asarray(x, np.float32) for part, x in zip(_PARTS, parts, strict=True)})
    return feeds


def _chain(value: str, x: str, y: str) -> list[NodeProto]:
    inverse, low, high, scale = (f"{value}@{part}" for part in _PARTS)
    steps, whole, inside = (f"{value}@{part}" for part in ("steps", "whole", "inside"))
    return [
        helper.make_node("Mul", [x, inverse], [steps]),
        helper.make_node("Round", [steps], [whole]),
        helper.make_node("Clip", [whole, low, high], [inside]),
        helper.make_node("Mul", [inside, scale], [y]),
    ]
