"""Nodes that round a value to fixed point for all its readers, while the layer around it runs in floats."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.graph.normalise import fresh, names_taken, set_nodes
from onnxopt.graph.rewrite.opset import version
from onnxopt.graph.rewrite.qdq import QuantParams

_SINCE = {"int8": 10, "uint8": 10, "int16": 21, "uint16": 21}
"""The opset from which QuantizeLinear has each type."""

_Operation = tuple[str, dict[str, Array], dict[str, Any]]
"""Of one node: type, constant inputs by name, attributes."""


def _operations(params: QuantParams, opset: int) -> list[_Operation]:
    """The chain of nodes that rounds a value.

    Where QuantizeLinear does not have the type yet, values stay floats, rounded by Round, or before opset 11 as
    ``floor(y / scale + 1/2)``, halves up.

    The Clip stands behind DequantizeLinear, where it gives the same values as before QuantizeLinear, and it stands
    there even where the type saturates alike: if a Conv or Gemm has nothing between itself and a DequantizeLinear
    before it and a QuantizeLinear behind it, ONNX Runtime rounds its float weights to 8 bits (WeightBiasQuantization).
    """
    scale, (low, high) = np.float32(params.scale), params.levels
    if _SINCE[params.type] <= opset:
        grid = {"scale": np.asarray(scale), "zero": np.asarray(params.zero, params.type)}
        made: list[_Operation] = [
            ("QuantizeLinear", grid, {}),
            ("DequantizeLinear", grid, {}),
            _clip(low * scale, high * scale, opset),
        ]
    else:
        made = [
            ("Mul", {"inverse": np.asarray(1 / scale)}, {}),
            *_round(opset),
            _clip(np.float32(low), np.float32(high), opset),
            ("Mul", {"scale": np.asarray(scale)}, {}),
        ]
    if params.dtype != "float32":
        back = {"to": helper.np_dtype_to_tensor_dtype(np.dtype(params.dtype))}
        made = [("Cast", {}, {"to": TensorProto.FLOAT}), *made, ("Cast", {}, back)]
    return made


def _clip(low: np.float32, high: np.float32, opset: int) -> _Operation:
    if opset < 11:
        return "Clip", {}, {"min": float(low), "max": float(high)}
    return "Clip", {"low": np.asarray(low), "high": np.asarray(high)}, {}


def _round(opset: int) -> list[_Operation]:
    if opset < 11:
        return [("Add", {"half": np.asarray(np.float32(0.5))}, {}), ("Floor", {}, {})]
    return [("Round", {}, {})]


def insert(model: onnx.ModelProto, values: Mapping[str, QuantParams]) -> None:
    """Rounds these values of the main graph, in place.

    The node that made ``y`` makes ``y@float``, and the rounded value takes the name ``y``, so that no reader, be it a
    branch or the user, changes. Of an input, the nodes of the main graph read the rounded value.
    """
    opset = version(model)
    taken = names_taken(model)
    nodes: list[NodeProto] = []
    rounded: dict[str, str] = {}
    for name in (value.name for value in model.graph.input if value.name in values):
        rounded[name] = fresh(f"{name}@rounded", taken)
        chain, constants = _chain(rounded[name], _operations(values[name], opset), taken)
        chain[0].input[0] = name
        nodes += chain
        model.graph.initializer.extend(constants)
    for node in model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.input):
            node.input[index] = rounded.get(name, name)
        for index, name in enumerate(node.output):
            if name in values:
                chain, constants = _chain(name, _operations(values[name], opset), taken)
                node.output[index] = chain[0].input[0]
                nodes += chain
                model.graph.initializer.extend(constants)
    set_nodes(model.graph, nodes)


def _chain(value: str, wanted: list[_Operation], taken: set[str]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that make `value`, the first of a new input, and their constants."""
    constants: dict[str, TensorProto] = {}
    nodes, x = [], fresh(f"{value}@float", taken)
    for index, (op, inputs, attributes) in enumerate(wanted):
        for part, array in inputs.items():
            if part not in constants:
                constants[part] = numpy_helper.from_array(array, fresh(f"{value}@{part}", taken))
        y = value if index == len(wanted) - 1 else fresh(f"{value}@{op.lower()}", taken)
        names = [x, *(constants[part].name for part in inputs)]
        nodes.append(helper.make_node(op, names, [y], **attributes))
        x = y
    return nodes, list(constants.values())
