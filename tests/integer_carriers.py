"""Models with one weight `w` of integers each, in the ways in which quantizers leave them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from builders import FLOAT, weights
from carriers import MS, Array, carrier, dequantized, ids, integers, node
from onnx import helper

_WIDTH = 128
_SCALE = np.float32(0.01)
_CODES = {"xs": np.float32(0.05), "xz": np.uint8(128), "ys": np.float32(0.1), "yz": np.uint8(128)}
"""Scales and zeros of values that are rounded as the model runs."""


def _grid(dtype: Any = np.int8, *shape: int) -> dict[str, Array]:
    low, high, zero = (-127, 127, 0) if dtype is np.int8 else (0, 255, 131)
    return {"w": integers(low, high, dtype, *shape), "s": np.asarray(_SCALE), "z": np.asarray(zero, dtype)}


def _rounded(value: str) -> list[onnx.NodeProto]:
    codes = [f"{value}s", f"{value}z"]
    return [node("QuantizeLinear", [f"{value}f", *codes], [f"{value}q"]),
            node("DequantizeLinear", [f"{value}q", *codes], [value + "r"])]  # fmt: skip


def _image(nodes: Sequence[onnx.NodeProto], tensors: dict[str, Array]) -> onnx.ModelProto:
    """x[n, 128] as images [n, 8, 4, 4] -> nodes -> y[n, 32, 2, 2]."""
    shaped = node("Reshape", ["x", "image"], ["xf"])
    return carrier([shaped, *nodes], {"image": np.array([-1, 8, 4, 4]), **tensors}, outputs=["n", 32, 2, 2])


def qdq_conv() -> onnx.ModelProto:
    """A convolution between rounded values, with a scale for each output and a bias of int32."""
    tensors = {**_CODES, "w": integers(-127, 127, np.int8, 32, 8, 3, 3), "b": integers(-999, 999, np.int32, 32)}
    scales = np.abs(weights(32, scale=0.01)) + _SCALE
    tensors |= {"s": scales, "z": np.zeros(32, np.int8), "bs": scales * _CODES["xs"], "bz": np.zeros(32, np.int32)}
    nodes = [
        *_rounded("x"),
        node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=0),
        node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        node("Conv", ["xr", "wd", "bd"], ["yf"]),
        *_rounded("y"),
        node("Identity", ["yr"], ["y"]),
    ]
    return _image(nodes, tensors)


def qlinear_conv() -> onnx.ModelProto:
    """QLinearConv."""
    tensors = {**_CODES, **_grid(np.uint8, 32, 8, 3, 3), "b": integers(-999, 999, np.int32, 32)}
    nodes = [
        node("QuantizeLinear", ["xf", "xs", "xz"], ["xq"]),
        node("QLinearConv", ["xq", "xs", "xz", "w", "s", "z", "ys", "yz", "b"], ["yq"]),
        node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return _image(nodes, tensors)


def qlinear_matmul() -> onnx.ModelProto:
    """QLinearMatMul."""
    nodes = [
        node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        node("QLinearMatMul", ["xq", "xs", "xz", "w", "s", "z", "ys", "yz"], ["yq"]),
        node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    return carrier(nodes, {**_CODES, **_grid()})


def matmul_integer(channels: bool = False) -> onnx.ModelProto:
    """What `quantize_dynamic` makes of a product."""
    tensors = _grid() | ({"s": np.abs(weights(_WIDTH, scale=0.01)) + _SCALE} if channels else {})
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("MatMulInteger", ["xq", "w", "xz", "z"], ["i"]),
        node("Cast", ["i"], ["c"], to=FLOAT),
        node("Mul", ["xs", "s"], ["m"]),
        node("Mul", ["c", "m"], ["y"]),
    ]
    return carrier(nodes, tensors)


def conv_integer() -> onnx.ModelProto:
    """What `quantize_dynamic` makes of a convolution."""
    nodes = [
        node("DynamicQuantizeLinear", ["xf"], ["xq", "xs", "xz"]),
        node("ConvInteger", ["xq", "w", "xz", "z"], ["i"]),
        node("Cast", ["i"], ["c"], to=FLOAT),
        node("Mul", ["xs", "s"], ["m"]),
        node("Mul", ["c", "m"], ["y"]),
    ]
    return _image(nodes, _grid(np.uint8, 32, 8, 3, 3))


def to_float() -> onnx.ModelProto:
    """What the runtime fuses such products to."""
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        node("MatMulIntegerToFloat", ["xq", "w", "xs", "s", "xz", "z", "b"], ["y"], domain=MS),
    ]
    return carrier(nodes, _grid() | {"b": weights(_WIDTH)})


def dynamic_matmul() -> onnx.ModelProto:
    """And with the rounding of its input."""
    nodes = [node("DynamicQuantizeMatMul", ["x", "w", "s", "z"], ["y"], domain=MS)]
    return carrier(nodes, _grid(np.uint8))


def dynamic_lstm() -> onnx.ModelProto:
    """x[8, n, 128] through a recurrent layer."""
    tensors = {"w": integers(-127, 127, np.int8, 1, _WIDTH, 128), "r": integers(-127, 127, np.int8, 1, 32, 128)}
    tensors["b"] = weights(1, 256, seed=2, scale=0.1)
    tensors |= {"s": np.full(1, 0.004, np.float32), "z": np.zeros(1, np.int8)}
    inputs = ["x", "w", "r", "b", "", "", "", "", "s", "z", "s", "z"]
    made = carrier([node("DynamicQuantizeLSTM", inputs, ["y"], domain=MS, hidden_size=32)], tensors,
                   outputs=[8, 1, "n", 32])  # fmt: skip
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, [8, "n", _WIDTH]))
    return made


def gathered() -> onnx.ModelProto:
    """A table of words, whose rows are dequantized."""
    nodes = [node("Gather", ["w", "x"], ["g"]), node("DequantizeLinear", ["g", "s", "z"], ["y"])]
    return ids(carrier(nodes, _grid(np.uint8), outputs=["n", 8, _WIDTH]))


INTEGER_CARRIERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "qdq_conv": qdq_conv,
    "qlinear_conv": qlinear_conv,
    "qlinear_matmul": qlinear_matmul,
    "matmul_integer": matmul_integer,
    "matmul_integer_channels": lambda: matmul_integer(channels=True),
    "conv_integer": conv_integer,
    "to_float": to_float,
    "dynamic_matmul": dynamic_matmul,
    "dynamic_lstm": dynamic_lstm,
    "gather_dequantize": gathered,
    "dequantize_int8": lambda: dequantized(np.int8, (_WIDTH,)),
    "dequantize_uint8_rows": lambda: dequantized(np.uint8, (_WIDTH,), axis=0),
    "dequantize_packed": lambda: dequantized(ml_dtypes.int4, (_WIDTH,)),
}
"""By name."""
