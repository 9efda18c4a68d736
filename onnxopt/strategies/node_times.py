"""Times of nodes in float and in INT8, and of conversions between the two."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from onnxopt.data import Array
from onnxopt.measure.clock import Clock

_ELEMENTS = 2**18
"""Size of the value whose conversion is timed."""
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|@float|@\d)+$")
"""Suffixes that the runtime or onnxopt's rewrites add to a node's name."""


def ms_by_op(clock: Clock, model: bytes, of: Mapping[str, int], feeds: Mapping[str, Array]) -> dict[int, float]:
    """Milliseconds of each fused operator of a plain model, by index.

    Arguments:
        of: index of each fused operator, by every name that a profile may use for it.
    """
    found: dict[int, float] = {}
    for node, ms in clock.profile(model, feeds).items():
        name = _SUFFIX.sub("", node.removeprefix("fused "))
        if name in of:
            found[of[name]] = found.get(of[name], 0.0) + ms
    return found


def conversion_ms(clock: Clock, kind: str) -> tuple[float, float]:
    """Milliseconds per element to quantize to this type, and to dequantize."""
    x = np.linspace(-1, 1, _ELEMENTS, dtype=np.float32)[None]
    there, back = (_conversion(op, kind) for op in ("QuantizeLinear", "DequantizeLinear"))
    (first,), (second,) = clock.time_many([there], {"x": x}), clock.time_many([back], {"x": np.zeros(x.shape, kind)})
    return first / _ELEMENTS, second / _ELEMENTS


def _conversion(op: str, kind: str) -> bytes:
    """A model with a single QuantizeLinear or DequantizeLinear node."""
    integer = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    types = (TensorProto.FLOAT, integer) if op == "QuantizeLinear" else (integer, TensorProto.FLOAT)
    domain = "" if kind.endswith("8") else "com.microsoft"
    x, y = (helper.make_tensor_value_info(name, one, ["n", _ELEMENTS]) for name, one in zip("xy", types, strict=True))
    scale, zero = np.asarray(0.01, np.float32), np.zeros((), kind)
    grid = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph([helper.make_node(op, ["x", "s", "z"], ["y"], domain=domain)], "one", [x], [y], grid)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
