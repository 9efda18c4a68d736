"""Makes a MatMul of an Einsum that multiplies the last axis of its input by a matrix, so that passes see the weight.

The runtime computes such an Einsum by a matrix product, too.
"""

from __future__ import annotations

import re

import numpy as np
import onnx_graphsurgeon as gs


def clean(graph: gs.Graph) -> int:
    """Rewrites the nodes; returns how many."""
    return sum(_rewritten(node) for node in graph.nodes)


def _rewritten(node: gs.Node) -> bool:
    if node.op != "Einsum" or node.domain or len(node.inputs) != 2 or not isinstance(node.inputs[1], gs.Constant):
        return False
    equation = node.attrs["equation"].replace(" ", "")
    terms = re.fullmatch(r"(?P<batch>\w+)(?P<sum>\w),(?P<w>\w\w)->(?P<y>\w+)", equation)
    if terms is None:
        return False
    batch, summed, weight = terms["batch"], terms["sum"], node.inputs[1]
    out = terms["w"].replace(summed, "")
    labels = f"{batch}{summed}{out}"
    if len(out) != 1 or len(set(labels)) != len(labels) or terms["y"] != batch + out:
        return False
    if terms["w"] == out + summed:
        turned = gs.Constant(f"{weight.name}@turned.{node.outputs[0].name}", np.ascontiguousarray(weight.values.T))
        node.inputs = [node.inputs[0], turned]
    node.op, node.attrs = "MatMul", {}
    return True
