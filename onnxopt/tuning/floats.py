"""Weights that stay floats and are trained beside those that are rounded."""

from __future__ import annotations

from onnxopt.build.workspace import Workspace
from onnxopt.encoding import Array
from onnxopt.graph.functions import RUNTIME, STANDARD
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


def _is_uniform(values: Array) -> bool:
    return values.size > 1 and bool((values == values.flat[0]).all())
