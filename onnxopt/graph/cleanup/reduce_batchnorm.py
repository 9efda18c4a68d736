"""Reduces batch normalization that cannot be folded to a scale and a shift: two vectors instead of four.

``gamma (x - mean) / sqrt(var + eps) + beta = s x + (beta - s mean)`` with ``s = gamma / sqrt(var + eps)``. It stays one
node, with mean 0 and variance ``1 - eps``, which nodes of equally many channels share. Runs after `fold_batchnorm`.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def clean(graph: gs.Graph) -> int:
    """Reduces where possible; returns how many nodes changed."""
    shared: dict[object, tuple[gs.Constant, gs.Constant]] = {}
    return sum(_reduce(node, shared) for node in graph.nodes if node.op == "BatchNormalization" and not node.domain)


def _reduce(norm: gs.Node, shared: dict[object, tuple[gs.Constant, gs.Constant]]) -> bool:
    x, *constants = norm.inputs
    if len(norm.outputs) != 1 or norm.attrs.get("training_mode", 0):
        return False
    if not all(isinstance(c, gs.Constant) and len(c.outputs) == 1 for c in constants):
        return False
    gamma, beta, mean, variance = (c.values.astype(np.float64) for c in constants)
    epsilon = norm.attrs.get("epsilon", 1e-5)
    scale = gamma / np.sqrt(variance + epsilon)
    values = (scale, beta - scale * mean, np.zeros_like(mean), np.full_like(variance, 1 - epsilon))
    reduced = [gs.Constant(f"{c.name}@bn", v.astype(c.values.dtype)) for c, v in zip(constants, values, strict=True)]
    statistics = shared.setdefault((mean.size, epsilon, *(c.dtype for c in constants[2:])), tuple(reduced[2:]))
    norm.inputs = [x, *reduced[:2], *statistics]
    return True
