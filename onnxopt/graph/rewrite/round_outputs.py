"""Values that are rounded to integers while the model runs: what is recorded of one, and the nodes that do it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.graph.normalise import fresh, names_taken, set_nodes
from onnxopt.graph.rewrite.opset import version

_TYPES = ((np.dtype("int8"), 10), (np.dtype("uint8"), 10), (np.dtype("int16"), 21), (np.dtype("uint16"), 21))
"""What QuantizeLinear makes, and since which version of the operators."""
_FLOAT = np.dtype("float32")

_Operation = tuple[str, dict[str, Array], dict[str, Any]]
"""Of one value: type, constant inputs by name, attributes."""


@dataclass(frozen=True, slots=True)
class Quantized:
    """What takes the place of a value y: ``scale (q - zero_point)``, q being ``round(y / scale) + zero_point``, halves
    rounded to even, and saturates at `low` and `high`.
    """

    scale: float
    """A normal float32 number, as is its inverse."""
    zero_point: int
    low: int
    high: int
    dtype: np.dtype[Any]
    """Of the value; other types than float32 are rounded as that."""

    def operations(self, opset: int) -> list[_Operation]:
        """That make it of y, one after the other.

        QuantizeLinear makes integers for which it has a type in this version of the operators. Others stay floats,
        rounded by Round, or before version 11 as ``floor(y / scale + 1/2)``, halves up.

        The Clip comes after DequantizeLinear, where it gives the same values as before QuantizeLinear, and even where
        the type saturates alike: if a Conv or Gemm has nothing between itself and a DequantizeLinear before it and a
        QuantizeLinear behind it, ONNX Runtime rounds its float weights to 8 bits (WeightBiasQuantization).
        """
        scale, (low, high) = np.float32(self.scale), (end - self.zero_point for end in (self.low, self.high))
        integers = self._integers(opset)
        if integers is not None:
            grid = {"scale": np.asarray(scale), "zero": np.asarray(self.zero_point, integers)}
            made = [
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
        if self.dtype != _FLOAT:
            back = {"to": helper.np_dtype_to_tensor_dtype(self.dtype)}
            made = [("Cast", {}, {"to": TensorProto.FLOAT}), *made, ("Cast", {}, back)]
        return made

    def _integers(self, opset: int) -> np.dtype[Any] | None:
        least, most = min(self.low, self.zero_point), max(self.high, self.zero_point)
        for dtype, since in _TYPES:
            if since <= opset and np.iinfo(dtype).min <= least and most <= np.iinfo(dtype).max:
                return dtype
        return None


def _clip(low: np.float32, high: np.float32, opset: int) -> _Operation:
    if opset < 11:
        return "Clip", {}, {"min": float(low), "max": float(high)}
    return "Clip", {"low": np.asarray(low), "high": np.asarray(high)}, {}


def _round(opset: int) -> list[_Operation]:
    if opset < 11:
        return [("Add", {"half": np.asarray(np.float32(0.5))}, {}), ("Floor", {}, {})]
    return [("Round", {}, {})]


def insert(model: onnx.ModelProto, values: Mapping[str, Quantized]) -> None:
    """Rounds these values of the main graph, in place.

    The node that makes ``y`` makes ``y@float``, and what is made of that is called ``y``: who reads it, a branch or the
    user, need not be told.
    """
    opset = version(model)
    taken = names_taken(model)
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            if name in values:
                chain, constants = _chain(name, values[name].operations(opset), taken)
                node.output[index] = chain[0].input[0]
                nodes += chain
                model.graph.initializer.extend(constants)
    set_nodes(model.graph, nodes)


def _chain(value: str, wanted: list[_Operation], taken: set[str]) -> tuple[list[NodeProto], list[TensorProto]]:
    """Nodes that make `value`, the first of a new one, and their constants."""

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
