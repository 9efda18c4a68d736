"""Batch normalization behind a convolution is a scale and a shift of its outputs: fold it into weights and bias.

``y = gamma (W x + b - mean) / sqrt(var + eps) + beta`` (Ioffe & Szegedy 2015, inference form), so with
``s = gamma / sqrt(var + eps)`` the folded weights are ``s W`` and the folded bias is ``s (b - mean) + beta``.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

_OUTPUT_AXIS = {"Conv": 0, "ConvTranspose": 1}


def clean(graph: gs.Graph) -> int:
    """Folds what can be folded; returns how many nodes went."""
    return sum(_fold(graph, node) for node in list(graph.nodes) if node.op == "BatchNormalization")


def _fold(graph: gs.Graph, norm: gs.Node) -> bool:
    x = norm.inputs[0]
    if len(x.inputs) != 1 or len(x.outputs) != 1 or x in graph.outputs or len(norm.outputs) != 1:
        return False
    conv = x.inputs[0]
    constants = (*conv.inputs[1:], *norm.inputs[1:])
    if conv.op not in _OUTPUT_AXIS or not all(isinstance(c, gs.Constant) for c in constants):
        return False
    if conv.op == "ConvTranspose" and conv.attrs.get("group", 1) != 1:
        return False
    weight = conv.inputs[1]
    if len(weight.outputs) != 1 or norm.attrs.get("training_mode", 0):
        return False  # shared weights would be scaled for the other consumer too
    gamma, beta, mean, variance = (c.values.astype(np.float64) for c in norm.inputs[1:])
    scale = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    along = [1] * weight.values.ndim
    along[_OUTPUT_AXIS[conv.op]] = -1
    dtype = weight.values.dtype
    bias = conv.inputs[2].values.astype(np.float64) if len(conv.inputs) > 2 else 0.0
    folded = (weight.values.astype(np.float64) * scale.reshape(along)).astype(dtype)
    shift = (scale * (bias - mean) + beta).astype(dtype)
    conv.inputs = [
        conv.inputs[0],
        gs.Constant(f"{weight.name}@bn", folded),
        gs.Constant(f"{weight.name}@bn.bias", shift),
    ]
    conv.outputs = norm.outputs
    norm.outputs = []
    return True
