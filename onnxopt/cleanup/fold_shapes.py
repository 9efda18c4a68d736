"""A constant that is only reshaped, transposed or passed on is a constant: compute it now, so that passes see it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from onnxopt.leaf import Array


def _reshape(x: Array, node: gs.Node) -> Array:
    wanted = node.inputs[1].values.astype(np.int64)
    if not node.attrs.get("allowzero", 0):
        wanted = np.array([x.shape[i] if d == 0 else d for i, d in enumerate(wanted)], np.int64)
    return x.reshape(wanted)


_FOLDS: dict[str, Callable[[Array, gs.Node], Array]] = {
    "Identity": lambda x, node: x,
    "Reshape": _reshape,
    "Transpose": lambda x, node: x.transpose(node.attrs.get("perm", range(x.ndim)[::-1])),
}


def clean(graph: gs.Graph) -> int:
    """Folds to the end, as one fold makes the next; returns how many nodes went."""
    folded = 0
    for node in graph.nodes:  # in topological order
        if node.op not in _FOLDS or not all(isinstance(i, gs.Constant) for i in node.inputs):
            continue
        output = node.outputs[0]
        if output in graph.outputs or any(len(i.outputs) != 1 for i in node.inputs[:1]):
            continue
        constant = gs.Constant(output.name, np.ascontiguousarray(_FOLDS[node.op](node.inputs[0].values, node)))
        for consumer in list(output.outputs):
            consumer.inputs = [constant if i is output else i for i in consumer.inputs]
        node.inputs, node.outputs = [], []
        folded += 1
    return folded
