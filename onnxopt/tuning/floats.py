"""Which weights are trained beside those that a slope decides on, and which are not."""

from __future__ import annotations

from collections.abc import Collection

import onnx

from onnxopt.build.workspace import Workspace
from onnxopt.encoding import Array
from onnxopt.graph.functions import RUNTIME, STANDARD
from onnxopt.graph.normalise import subgraphs
from onnxopt.graph.sites import FLOATS

_PARAMETERS = {
    ("", "BatchNormalization"): (1, 2), ("", "InstanceNormalization"): (1, 2), ("", "GroupNormalization"): (1, 2),
    ("", "LayerNormalization"): (1, 2), ("", "RMSNormalization"): (1,), ("", "PRelu"): (1,),
    ("", "SimplifiedLayerNormalization"): (1,), (RUNTIME, "SkipLayerNormalization"): (2, 3, 4),
    (RUNTIME, "SkipSimplifiedLayerNormalization"): (2, 3),
}  # fmt: skip
"""Operators with scales, shifts or slopes, and the indices of these inputs."""


def biases(work: Workspace) -> list[str]:
    """Paths of the biases of layers, each once."""
    return list(dict.fromkeys(one.bias for uses in work.graph.linears().values() for one in uses if one.bias))


def parameters(work: Workspace) -> list[str]:
    """Paths of the scales and shifts of normalizations, and of the slopes of rectifiers, each once.

    Without those whose elements are all alike: they take next to no bytes, and trained ones would.
    """
    graph = work.graph.model.graph
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type in FLOATS}
    floats -= {value.name for value in graph.output}
    found = (
        node.input[index]
        for node in graph.node
        for index in _PARAMETERS.get(("" if node.domain in STANDARD else node.domain, node.op_type), ())
        if index < len(node.input)
    )
    return [name for name in dict.fromkeys(found) if name in floats and not _is_uniform(work.graph.values(name))]


def tables(work: Workspace) -> set[str]:
    """Paths of the weights of which inputs only look up rows, as of words.

    Few of the rows are in the samples. On the others, the price of their bits alone would decide.
    """
    model = work.graph.model
    constants = {tensor.name for tensor in model.graph.initializer}
    looked_up, read = set[str](), set[str]()
    for graph in subgraphs(model.graph):
        for node in graph.node:
            for index, name in enumerate(node.input):
                (looked_up if _looks_up(node, index, constants) else read).add(name)
    return (looked_up - read) & constants


def _looks_up(node: onnx.NodeProto, index: int, constants: Collection[str]) -> bool:
    """Whether a node takes rows of an operand, and inputs say which."""
    if node.domain == RUNTIME:
        return node.op_type == "EmbedLayerNormalization" and index in (2, 3, 4)
    return node.op_type.startswith("Gather") and index == 0 and node.input[1] not in constants


def _is_uniform(values: Array) -> bool:
    return values.size > 1 and bool((values == values.flat[0]).all())
