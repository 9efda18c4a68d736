"""What passes share that make a chain of layers of one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import repeat

import numpy as np
from onnx import NodeProto

from onnxopt import lowrank
from onnxopt.graph import Graph, Site, chains
from onnxopt.leaf import Array
from onnxopt.passes.base import Pass, Skip, finite, take_up
from onnxopt.stats import Floats, Stats


class Structural(Pass):
    """Replaces the nodes that use a weight by chains of nodes with weights of their own, ``path@part``.

    `Graph.reset` does not take it back: it runs once, before the statistics of what it makes are measured. With
    statistics of the weight it keeps the layer's outputs, not the weight, and takes the error that remains on average
    off the bias.
    """


class Layer:
    """A weight that can be factored: as matrices, with the nodes that use it.

    Raises Skip where it cannot be.
    """

    def __init__(self, graph: Graph, site: Site, stats: Stats) -> None:
        self._graph, self._site, self._stats = graph, site, stats
        values = graph.values(site.path)
        linears = graph.linears().get(site.path)
        self.nodes: list[NodeProto] = chains.users(graph.model, site.path)
        ops = {node.op_type for node in self.nodes}
        if linears is None or not (ops == {"Conv"} or ops <= {"Gemm", "MatMul"}):
            raise Skip("is not the weight of convolutions only, or of matrix products only, outside branches and loops")
        if any(list(node.input).count(site.path) > 1 for node in self.nodes):
            raise Skip("is multiplied by itself")
        self.conv = ops == {"Conv"}
        if self.conv and len({len(linear.matrix(values)) for linear in linears}) > 1:
            raise Skip("is shared by convolutions of different groups")
        self.shape = site.shape
        self.matrix: Floats = linears[0].matrix(finite(values))
        """[groups, outputs, inputs]"""

    def roots(self) -> Iterator[Floats | None]:
        """Of each group, L of its inputs' second moment ``L L^T``; None where there is none."""
        moments = self._stats.moments
        if moments is None or moments.feedback is None:
            return repeat(None, len(self.matrix))
        return map(lowrank.root, moments.feedback, moments.variance)

    def replace(
        self, parts: Mapping[str, Array], product: Callable[[], Floats], chain: chains.Chain
    ) -> tuple[Site, ...]:
        """Puts chains in the nodes' place.

        Arguments:
            parts: new weights by their part's name.
            product: what they make together, [groups, outputs, inputs]; asked for where a bias can use it.
        """
        path, dtype = self._site.path, self._graph.values(self._site.path).dtype
        tensors = {f"{path}@{part}": values.astype(dtype) for part, values in parts.items()}
        linear = self._stats.linear
        alone = len(self.nodes) == 1  # inputs of several nodes are not known one by one
        if linear is not None and linear.bias and self._stats.moments is not None and alone:
            take_up(self._graph, self.matrix - product(), self._stats)
            tensors[linear.bias] = self._graph.values(linear.bias)
        return self._graph.replace(path, tensors, chain)


def within(name: str, rank: int, most: int) -> None:
    """Raises Skip where a rank is larger than any of the weight."""
    if rank > most:
        raise Skip(f"{name} is {rank}, but the weight has no more than {most}")


def positive(**ranks: int) -> None:
    """Raises ValueError where a rank is none."""
    for name, rank in ranks.items():
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise ValueError(f"{name} is {rank}, expected a whole number above 0")


def matrix_shape(site: Site, stats: Stats) -> tuple[int, int, int] | None:
    """Groups, outputs, inputs of what a pass may factor; None where it is not known to be one."""
    if stats.linear is None or site.op not in ("Conv", "Gemm", "MatMul"):
        return None
    groups, outputs, inputs = stats.linear.matrix(np.broadcast_to(np.float32(0), site.shape)).shape
    return groups, outputs, inputs


def eighths(most: float) -> list[int]:
    """Ranks from an eighth to seven eighths of `most`."""
    return sorted({int(most * i / 8) for i in range(1, 8)} - {0})
