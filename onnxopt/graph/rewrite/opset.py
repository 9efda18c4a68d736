"""The version of a model's standard operators, and the shapes of its values."""

from __future__ import annotations

import onnx
from onnx import version_converter

from onnxopt.files.set_aside import with_elements
from onnxopt.graph.inspect.expose import types

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
    raised = version_converter.convert_version(with_elements(model), OPSET)
    raised.ir_version = max(raised.ir_version, _IR)
    return raised


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The dimensions of every value for which their number is known; 0 for a free one."""
    shaped = {name: kind.tensor_type for name, kind in types(model).items() if kind.tensor_type.HasField("shape")}
    return {name: tuple(one.dim_value for one in tensor.shape.dim) for name, tensor in shaped.items()}


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """The number of dimensions of every value for which it is known."""
    return {name: len(shape) for name, shape in shapes(model).items()}
