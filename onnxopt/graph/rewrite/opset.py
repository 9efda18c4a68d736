"""The version of a model's standard operators, and what ONNX infers of its values."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import shape_inference, version_converter

OPSET = 13
"""The first opset whose QuantizeLinear takes a scale for each channel."""
_IR = 7
"""The version of the file format that goes with it."""
IMAGES = 4
"""Dimensions of a batch of images."""


def version(model: onnx.ModelProto) -> int:
    """The opset of the standard operators; 0 if the model imports none."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model converted to opset `OPSET` unless it has that or a later one; raises what ONNX's converter raises."""
    if version(model) >= OPSET:
        return model
    raised = version_converter.convert_version(model, OPSET)
    raised.ir_version = max(raised.ir_version, _IR)
    return raised


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of dimensions of every value for which it is known."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception:  # for example a model over 2 GB: then only what is declared is known
        graph = model.graph
    known: list[Any] = [*graph.input, *graph.value_info, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in known if v.type.tensor_type.HasField("shape")}
