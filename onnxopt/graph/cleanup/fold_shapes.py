"""Folds constants, so that passes see the weights: what is only moved, copied, cast, scaled or dequantized.

Integers of a few bits become the floats that the next node multiplies by, as in the runtime; how many bits they take in
the file is the search's choice. A DequantizeLinear stays where the runtime may compute with its integers: in a model
that quantizes values as it runs, before a matrix product, and on blocks of 4 bits. Small integers are folded, too, as
some exporters compute pads and shapes from them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter

from onnxopt.encoding import Array
from onnxopt.native import PAIRED

_INTEGER = frozenset(("Cast", "Concat", "ConstantOfShape", "Gather", "Slice", "Squeeze", "Unsqueeze"))
_SMALL = 1024
"""Most elements of an integer tensor that is folded."""
_SCALING = frozenset(("Add", "Cast", "DequantizeLinear", "Div", "Mul", "Sub"))
_BYTES = frozenset(map(np.dtype, (np.int8, np.uint8)))
_FLOATS = (np.float32, np.float16)
_WIDEST = 4
"""Bytes of an element that is made a float: wider ones are no weights."""


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
    quantizes = _quantizes(graph)
    for node in graph.nodes:
        if node.domain or not node.inputs or not all(isinstance(i, gs.Constant) for i in node.inputs):
            continue
        output = node.outputs[0]
        if output in graph.outputs or (node.op == "DequantizeLinear" and (quantizes or _is_kernel_form(node))):
            continue
        values = _fold(node, graph.opset)
        if values is None:
            continue
        constant = gs.Constant(output.name, np.ascontiguousarray(values))
        for consumer in list(output.outputs):
            consumer.inputs = [constant if i is output else i for i in consumer.inputs]
        node.inputs, node.outputs = [], []
        folded += 1
    return folded


def _quantizes(graph: gs.Graph) -> bool:
    """Whether the model quantizes values as it runs."""
    return any(
        node.op.endswith("QuantizeLinear") and not isinstance(node.inputs[0], gs.Constant) for node in graph.nodes
    )


def _is_kernel_form(node: gs.Node) -> bool:
    """Whether the runtime may multiply by the integers as they are, as it makes MatMulNBits of such nodes."""
    if node.inputs[0].values.dtype not in PAIRED | _BYTES:
        return False
    blocked = node.attrs.get("block_size", 0) and node.inputs[0].values.dtype in PAIRED
    return bool(blocked) or any(user.op in ("MatMul", "Gemm", "Transpose") for user in node.outputs[0].outputs)


def _fold(node: gs.Node, opset: int) -> Array | None:
    """The node's output; None if it is not to be folded."""
    x = node.inputs[0].values
    if node.op in _FOLDS:
        return _FOLDS[node.op](x, node) if len(node.inputs[0].outputs) == 1 or _are_few_integers(x) else None
    if node.op in _INTEGER and all(_are_few_integers(i.values) for i in node.inputs):
        if node.op == "ConstantOfShape" and np.prod(x.astype(np.float64)) > _SMALL:
            return None
        values = _computed(node, opset)
        return values if _are_few_integers(values) else None
    largest = max(node.inputs, key=lambda one: one.values.size)
    if node.op in _SCALING and len(largest.outputs) == 1 and largest.values.dtype.itemsize <= _WIDEST:
        try:
            values = _computed(node, opset)
        except Exception:  # of any class, from ONNX's reference, which lacks some types
            return None
        return values if values.dtype in _FLOATS and values.size == largest.values.size else None
    return None


def _computed(node: gs.Node, opset: int) -> Array:
    from onnx.reference import ReferenceEvaluator  # noqa: PLC0415 (slow to import, and rarely needed)

    evaluator = ReferenceEvaluator(OnnxExporter.export_node(node), opsets={"": opset})
    (output,) = evaluator.run(None, {i.name: i.values for i in node.inputs})
    return np.asarray(output)


def _are_few_integers(values: Array) -> bool:
    return values.dtype.kind in "iub" and values.size <= _SMALL
