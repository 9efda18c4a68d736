"""Finds the outputs whose shape follows from values, so that a declared shape may hold on some inputs only."""

from __future__ import annotations

import onnx

from onnxopt.graph.walk import reads

_SHAPING = {
    "AffineGrid": 1, "BlackmanWindow": 0, "CenterCropPad": 1, "Col2Im": 1, "Compress": 0, "ConstantOfShape": 0,
    "DFT": 1, "Expand": 1, "HammingWindow": 0, "HannWindow": 0, "ImageDecoder": 0, "MaxUnpool": 2,
    "MelWeightMatrix": 0, "NonMaxSuppression": 0, "NonZero": 0, "OneHot": 1, "Pad": 1, "Range": 0, "Reshape": 1,
    "Resize": 1, "STFT": 1, "Slice": 1, "Split": 1, "Squeeze": 1, "Tile": 1, "TopK": 1, "Unique": 0, "Unsqueeze": 1,
    "Upsample": 1,
}  # fmt: skip
"""Operators whose result is as large as values of inputs say, and the index of the first of these inputs."""
_OF_SHAPE = frozenset({"Shape", "Size"})


def of_unsure_shape(model: onnx.ModelProto) -> frozenset[str]:
    """The outputs whose shape follows from the values of inputs, whatever shape they are declared with.

    What control flow does to shapes is not followed: the loader trusts no shape where there is any.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    by_value = {value.name for value in graph.input} - constants
    """What follows from the values of an input, and not just from its shape."""
    unsure = set[str]()
    for node in graph.node:  # in the order of execution
        read = set(reads(node))
        shaping = node.input[_first_shaping(node) :]
        if not unsure.isdisjoint(read) or not by_value.isdisjoint(shaping):
            unsure.update(node.output)
        if node.op_type not in _OF_SHAPE and not by_value.isdisjoint(read):
            by_value.update(node.output)
    return frozenset(value.name for value in graph.output if value.name in unsure - {""})


def _first_shaping(node: onnx.NodeProto) -> int:
    """The index of the node's first input whose values say how large its result is."""
    return 1 if node.op_type.startswith("Reduce") else _SHAPING.get(node.op_type, len(node.input))
