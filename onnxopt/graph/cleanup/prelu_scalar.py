"""Replaces PRelu with one slope for all channels by LeakyRelu, which is faster and has integer kernels."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def clean(graph: gs.Graph) -> int:
    """Replaces where possible; returns how many nodes changed."""
    return sum(_change(node) for node in graph.nodes if node.op == "PRelu" and not node.domain)


def _change(node: gs.Node) -> bool:
    x, slope = node.inputs
    if not isinstance(slope, gs.Constant) or slope.values.size != 1 or slope.values.dtype != np.float32:
        return False
    node.op, node.attrs, node.inputs = "LeakyRelu", {"alpha": float(slope.values.reshape(()))}, [x]
    return True
