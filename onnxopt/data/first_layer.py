"""An input's scale, told by the first layer's biases, or by the batch normalization behind it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

from onnxopt.data.hints import MOVES, Hints
from onnxopt.data.laws import Array
from onnxopt.data.random import quiet_session

_LARGEST, _LEAST = 16.0, 1 / 64
"""Bounds between which a first layer's biases, over the spread of what they are added to, say nothing."""
_BELIEVED = 2.0**15
"""So many times more or less than variance 1, no input is: even pixels of 16 bits have a spread of 19,000. Then it is
weights near 0 that make the biases look large."""


def spread_told(hints: Hints, name: str, draw: Callable[[], Array]) -> float | None:
    """The spread that an input must have for the first layer's sums to be of the size of its biases.

    None where that says nothing.

    Training leaves biases that are neither negligible against what they are added to nor far beyond it, and batch
    normalization folded into a layer leaves them near it. With inputs of variance 1, a layer that was trained on
    pixels of 0..255 has biases of 60 times the spread of its sums, those of other inputs 0.05 to 5 times. A batch
    normalization that is not folded tells the spread of the sums itself.

    Arguments:
        draw: gives a batch of variance 1.
    """
    chain = _first_layer(hints, name)
    if chain is None:
        return None
    nodes, told = chain
    used = {one for node in nodes for one in node.input}
    entry = next(value for value in hints.model.graph.input if value.name == name)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            nodes, "first layer", [entry], [onnx.helper.make_empty_tensor_value_info(nodes[-1].output[0])],
            [hints.tensor(one) for one in sorted(used) if hints.constant(one) is not None],
        ),
        opset_imports=hints.model.opset_import, ir_version=hints.model.ir_version,
    )  # fmt: skip
    try:
        (sums,) = quiet_session(model.SerializeToString()).run(None, {name: draw()})
    except Exception:  # it is a hint only
        return None
    axis = 1 if nodes[-1].op_type == "Conv" else -1
    spreads = np.moveaxis(sums, axis, 0).reshape(len(told), -1).std(1)
    alive = spreads > 0
    ratio = float(np.median(np.abs(told[alive]) / spreads[alive])) if alive.any() else 0.0
    believed = 1 / _BELIEVED <= ratio <= _BELIEVED
    return ratio if believed and not _LEAST <= ratio <= _LARGEST else None


def _first_layer(hints: Hints, name: str) -> tuple[list[onnx.NodeProto], Array] | None:
    """The nodes from an input to the first layer, and what tells the size of its sums for each of its outputs.

    That is its biases, or the deviations of a batch normalization behind it. None if the graph begins otherwise.
    """
    nodes, value = list[onnx.NodeProto](), name
    while len(following := hints.direct(value)) == 1:
        node = following[0]
        nodes.append(node)
        if any(hints.constant(other) is None for other in node.input if other not in ("", value)):
            return None
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight, sizes = hints.constant(node.input[1]), _sizes(hints, node)
            flipped = node.op_type == "Conv" or any(a.name == "transB" and a.i for a in node.attribute)
            known = weight is not None and sizes is not None and sizes.size == weight.shape[0 if flipped else -1]
            return (nodes, sizes.ravel().astype(np.float64)) if known and sizes is not None else None
        if node.op_type not in MOVES:
            return None
        value = node.output[0]
    return None


def _sizes(hints: Hints, node: onnx.NodeProto) -> Array | None:
    """Of a layer's sums: see `_first_layer`."""
    after = hints.direct(node.output[0])
    if len(after) == 1 and after[0].op_type == "BatchNormalization":
        variance = hints.constant(after[0].input[4])
        return None if variance is None else np.sqrt(np.maximum(variance, 0))
    if len(node.input) > 2:
        return hints.constant(node.input[2])
    if len(after) == 1 and after[0].op_type == "Add":
        found = [hints.constant(other) for other in after[0].input if other != node.output[0]]
        return next((one for one in found if one is not None), None)
    return None
