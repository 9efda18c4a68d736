"""Folds batch normalization behind a linear operator into its weights and bias.

``y = gamma (W x + b - mean) / sqrt(var + eps) + beta`` (Ioffe & Szegedy 2015, inference form), so with
``s = gamma / sqrt(var + eps)`` the folded weights are ``s W`` and the folded bias is ``s (b - mean) + beta``.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def _output_axis(node: gs.Node) -> int | None:
    """The axis of the weights that holds the outputs; None for any other operator."""
    if node.domain:
        return None
    gemm = 0 if node.attrs.get("transB", 0) else 1
    return {"Conv": 0, "ConvTranspose": 1, "Gemm": gemm}.get(node.op)


def clean(graph: gs.Graph) -> int:
    """Folds where possible; returns how many nodes it removed."""
    return sum(_fold(graph, node) for node in list(graph.nodes) if node.op == "BatchNormalization" and not node.domain)


def _fold(graph: gs.Graph, norm: gs.Node) -> bool:
    x = norm.inputs[0]
    if len(x.inputs) != 1 or len(x.outputs) != 1 or x in graph.outputs or len(norm.outputs) != 1:
        return False
    linear = x.inputs[0]
    axis = _output_axis(linear)
    constants = (*linear.inputs[1:], *norm.inputs[1:])
    if axis is None or not all(isinstance(c, gs.Constant) for c in constants):
        return False
    if linear.op == "ConvTranspose" and linear.attrs.get("group", 1) != 1:
        return False
    weight = linear.inputs[1]
    if len(weight.outputs) != 1 or norm.attrs.get("training_mode", 0):
        return False  # scaling shared weights would change the other consumer
    gamma, beta, mean, variance = (c.values.astype(np.float64) for c in norm.inputs[1:])
    scale = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    along = [1] * weight.values.ndim
    along[axis] = -1
    dtype = weight.values.dtype
    bias = linear.inputs[2].values.astype(np.float64) if len(linear.inputs) > 2 else np.zeros(1)
    if bias.size not in (1, scale.size) or bias.shape[-1:] not in ((), (bias.size,)):
        return False  # a bias of Gemm with a value for every row
    folded = (weight.values.astype(np.float64) * scale.reshape(along)).astype(dtype)
    shift = (scale * (bias * linear.attrs.pop("beta", 1.0) - mean) + beta).astype(dtype)
    linear.inputs = [
        linear.inputs[0],
        gs.Constant(f"{weight.name}@bn", folded),
        gs.Constant(f"{weight.name}@bn.bias", shift),
    ]
    linear.outputs = norm.outputs
    norm.outputs = []
    return True
