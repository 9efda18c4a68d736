"""Operators as integer kernels know them: of a version with scales by channel, and convolutions for what is one."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference, version_converter

from onnxopt.encoding import Array
from onnxopt.graph.normalise import subgraphs

OPSET = 13
"""The first version of the operators whose scales may differ by channel."""
_IR = 7
"""Version of the file format that goes with it."""
IMAGES = 4
"""Dimensions."""


def version(model: onnx.ModelProto) -> int:
    """Of the standard operators."""
    return max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=0)


def raise_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with operators of at least version `OPSET`; raises what ONNX's converter raises."""
    if version(model) >= OPSET:
        return model
    made = version_converter.convert_version(model, OPSET)
    made.ir_version = max(made.ir_version, _IR)
    return made


def batchnorm_to_conv(model: onnx.ModelProto) -> int:
    """Makes convolutions of batch normalizations of images, in place; returns how many.

    ``gamma (x - mean) / sqrt(var + eps) + beta`` is a depthwise Conv of 1 x 1 with weights ``s = gamma / sqrt(var +
    eps)`` and the bias ``beta - s mean``. Weights keep the name of gamma, biases that of beta. A Conv runs on integers,
    with a scale for each channel at that, and takes the rectifier behind it; nothing else in ONNX Runtime
    does both. Only constants of one use in the main graph are taken.
    """
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization" and not node.domain]
    if not norms:
        return 0
    known, tensors, uses = ranks(model), {t.name: t for t in model.graph.initializer}, _uses(model)
    fed = {value.name for value in model.graph.input}
    read = {name for node in norms for name in node.input[3:]}
    made = sum(_convolve(node, known, tensors, uses) for node in norms if fed.isdisjoint(node.input[1:]))
    left = read - _uses(model).keys()
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in left:
            del model.graph.initializer[index]
    return made


def _convolve(norm: NodeProto, known: dict[str, int], tensors: dict[str, TensorProto], uses: dict[str, int]) -> bool:
    attributes = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
    constants = [tensors.get(name) for name in norm.input[1:5]]
    if known.get(norm.input[0]) != IMAGES or attributes.get("training_mode") or len(norm.output) != 1:
        return False
    if any(tensor is None or tensor.data_type != TensorProto.FLOAT for tensor in constants):
        return False
    if any(uses[name] != 1 for name in norm.input[1:3]):
        return False
    gamma, beta, mean, variance = (_values(tensor) for tensor in constants)
    scale = gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))
    shift = beta - scale * mean
    weight, bias = norm.input[1:3]
    for name, values in ((weight, scale.reshape(-1, 1, 1, 1)), (bias, shift)):
        tensors[name].CopyFrom(numpy_helper.from_array(values.astype(np.float32), name))
    conv = helper.make_node("Conv", [norm.input[0], weight, bias], list(norm.output), norm.name, group=scale.size,
                            kernel_shape=[1, 1])  # fmt: skip
    norm.CopyFrom(conv)
    return True


def _values(tensor: TensorProto | None) -> Array:
    assert tensor is not None
    return np.asarray(numpy_helper.to_array(tensor), np.float64)


def ranks(model: onnx.ModelProto) -> dict[str, int]:
    """Numbers of dimensions, of what is known to have any."""
    try:
        graph = shape_inference.infer_shapes(model).graph
    except Exception:  # a model over 2 GB, say: nothing is known then
        graph = model.graph
    known: list[Any] = [*graph.input, *graph.value_info, *graph.output]
    return {v.name: len(v.type.tensor_type.shape.dim) for v in known if v.type.tensor_type.HasField("shape")}


def _uses(model: onnx.ModelProto) -> dict[str, int]:
    """How often each value is read."""
    found = {value.name: 1 for value in model.graph.output}
    for graph in subgraphs(model.graph):
        for node in graph.node:
            for name in node.input:
                found[name] = found.get(name, 0) + 1
    return found
