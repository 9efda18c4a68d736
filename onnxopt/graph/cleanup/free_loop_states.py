"""Takes constants out of the states of loops: a state that no iteration changes is read from outside instead.

Exporters pass the weights of recurrent layers through the loop, where no pass sees what they are multiplied by.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs


def clean(graph: gs.Graph) -> int:
    """Removes such states; returns of how many loops."""
    return sum(_freed(node, graph) for node in graph.nodes if node.op in ("Loop", "Scan") and not node.domain)


def _freed(node: gs.Node, graph: gs.Graph) -> bool:
    body = node.attrs["body"]
    # Loop(trip count, condition, states...) calls body(number, condition, states...), which returns (condition,
    # states..., scanned outputs...); Scan(states..., scanned inputs...) passes both, and gets the same without one.
    before, kept = (2, 1) if node.op == "Loop" else (0, 0)
    states = len(node.inputs) - (2 if node.op == "Loop" else node.attrs["num_scan_inputs"])
    freed = False
    for state in reversed(range(states)):
        value, inside = node.inputs[before + state], body.inputs[before + state]
        returned = node.outputs[state]
        if not isinstance(value, gs.Constant) or _source(body.outputs[kept + state]) is not inside:
            continue
        if returned in graph.outputs:
            continue
        _read_instead(returned, value)
        _read_instead(inside, value)
        del node.inputs[before + state], body.inputs[before + state]
        del node.outputs[state], body.outputs[kept + state]
        freed = True
    return freed


def _source(value: gs.Tensor) -> gs.Tensor:
    """What a value is a copy of."""
    while value.inputs and value.inputs[0].op == "Identity":
        value = value.inputs[0].inputs[0]
    return value


def _read_instead(old: gs.Tensor, new: gs.Tensor) -> None:
    for user in list(old.outputs):
        user.inputs = [new if one is old else one for one in user.inputs]
