"""Batch normalization of images as depthwise convolution, which ONNX Runtime has an integer kernel for."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.files.set_aside import elements_of
from onnxopt.graph.normalise import subgraphs
from onnxopt.graph.rewrite.opset import IMAGES, ranks


def batchnorm_to_conv(model: onnx.ModelProto) -> int:
    """Replaces batch normalizations of images by convolutions, in place; returns how many.

    ``gamma (x - mean) / sqrt(var + eps) + beta`` is a depthwise 1 x 1 Conv with weights ``s = gamma / sqrt(var + eps)``
    and bias ``beta - s mean``. The weights keep the name of gamma, the bias that of beta. Unlike batch normalization, a
    Conv runs in integers, with a scale for each channel, and fuses with the rectifier behind it. Nodes whose parameters
    are not constants of one use in the main graph stay.
    """
    norms = [node for node in model.graph.node if node.op_type == "BatchNormalization" and not node.domain]
    if not norms:
        return 0
    known, tensors, reads = ranks(model), {t.name: t for t in model.graph.initializer}, _reads(model)
    fed = {value.name for value in model.graph.input}
    statistics = {name for node in norms for name in node.input[3:]}
    replaced = sum(_replace(node, known, tensors, reads) for node in norms if fed.isdisjoint(node.input[1:]))
    unread = statistics - _reads(model).keys()
    for index in reversed(range(len(model.graph.initializer))):
        if model.graph.initializer[index].name in unread:
            del model.graph.initializer[index]
    return replaced


def _replace(norm: NodeProto, known: dict[str, int], tensors: dict[str, TensorProto], reads: Counter[str]) -> bool:
    attributes = {a.name: helper.get_attribute_value(a) for a in norm.attribute}
    constants = [tensors.get(name) for name in norm.input[1:5]]
    if known.get(norm.input[0]) != IMAGES or attributes.get("training_mode") or len(norm.output) != 1:
        return False
    if any(tensor is None or tensor.data_type != TensorProto.FLOAT for tensor in constants):
        return False
    if any(reads[name] != 1 for name in norm.input[1:3]):
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
    return np.asarray(elements_of(tensor), np.float64)


def _reads(model: onnx.ModelProto) -> Counter[str]:
    """How often each value is read; being an output of the model counts as one read."""
    reads = Counter(dict.fromkeys((value.name for value in model.graph.output), 1))
    reads.update(name for graph in subgraphs(model.graph) for node in graph.node for name in node.input)
    return reads
