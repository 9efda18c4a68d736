"""A clean-up: Relu behind Relu changes nothing."""

from __future__ import annotations

import onnx_graphsurgeon as gs


def clean(graph: gs.Graph) -> int:
    """Removes them; returns how many nodes that were."""
    return sum(_removed(node, graph) for node in graph.nodes if node.op == "Relu")


def _removed(node: gs.Node, graph: gs.Graph) -> bool:
    (source,), (result,) = node.inputs, node.outputs
    if not source.inputs or source.inputs[0].op != "Relu" or result in graph.outputs:
        return False
    for user in list(result.outputs):
        user.inputs = [source if one is result else one for one in user.inputs]
    node.outputs = []
    return True
