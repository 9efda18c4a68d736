"""Folds constants: weights that are only reshaped, transposed or copied, so that passes see them, and small integers.

Some exporters compute pads and shapes from such integers.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxopt.encoding import Array

_INTEGER = frozenset(("Cast", "Concat", "ConstantOfShape", "Gather", "Slice", "Squeeze", "Unsqueeze"))
_SMALL = 1024
"""Most elements of an integer tensor that is folded."""


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
    """Folds in topological order, so that a fold enables the next; returns how many nodes it removed."""
    folded = 0
    for node in graph.nodes:
        if node.domain or not node.inputs or not all(isinstance(i, gs.Constant) for i in node.inputs):
            continue
        output = node.outputs[0]
        values = None if output in graph.outputs else _fold(node, graph.opset)
        if values is None:
            continue
        constant = gs.Constant(output.name, np.ascontiguousarray(values))
        for consumer in list(output.outputs):
            consumer.inputs = [constant if i is output else i for i in consumer.inputs]
        node.inputs, node.outputs = [], []
        folded += 1
    return folded


def _fold(node: gs.Node, opset: int) -> Array | None:
    """The node's output; None if it is not to be folded."""
    x = node.inputs[0].values
    if node.op in _FOLDS:
        return _FOLDS[node.op](x, node) if len(node.inputs[0].outputs) == 1 or _are_few_integers(x) else None
    if node.op not in _INTEGER or not all(_are_few_integers(i.values) for i in node.inputs):
        return None
    if node.op == "ConstantOfShape" and np.prod(x.astype(np.float64)) > _SMALL:
        return None
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (slow to import, and rarely needed)

    evaluator = ReferenceEvaluator(OnnxExporter.export_node(node), opsets={"": opset})
    (output,) = evaluator.run(None, {i.name: i.values for i in node.inputs})
    values = np.asarray(output)
    return values if _are_few_integers(values) else None


def _are_few_integers(values: Array) -> bool:
    return values.dtype.kind in "iub" and values.size <= _SMALL
