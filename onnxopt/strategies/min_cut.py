"""Chooses the nodes that run in INT8: a minimum cut that trades time against noise. Works on numbers, not on graphs.

Every node runs in float or in INT8 and has a time for each. A value that passes between the two takes time to convert,
and a rounded value adds noise to the model's outputs. A minimum cut of a graph with these costs minimises their sum
(Greig, Porteous & Seheult 1989). It is exact and takes milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np
import scipy  # imports its parts when they are used

_TOTAL = 2**28
"""Scale of the sum of all costs, since the flow solver takes 32-bit integers."""
_NEVER = 2**30
_LOW, _HIGH, _HALVINGS = 1e-9, 1e12, 70
"""Range of noise prices (Lagrange multipliers), scaled by total time over total noise; and the bisection steps."""


@dataclass(frozen=True, slots=True)
class NodeCost:
    """Times of one node, in milliseconds."""

    floats: float
    integers: float
    """Infinite if the node cannot run in INT8."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A value between nodes."""

    maker: int | None
    """The node that computes it; None for model inputs."""
    readers: tuple[int, ...]
    seen: bool
    """Whether it is a model output, which has to be float."""
    noise: float
    """Noise-to-signal ratio of the model's outputs, in power, from rounding this value."""
    quantize: float
    """Milliseconds to quantize the value."""
    dequantize: float
    free: bool = False
    """Whether its maker, when it runs in INT8, outputs either type at no extra cost."""
    moved: bool = False
    """Whether its maker only moves elements: moving rounded values adds no further noise."""


@dataclass(frozen=True, slots=True)
class Placement:
    """A choice of INT8 nodes and its costs."""

    integers: frozenset[int]
    """Indices of the INT8 nodes."""
    rounded: frozenset[int]
    """Indices of the rounded edges."""
    ms: float
    noise: float


class MinCutPartitioner:
    """Places the nodes of one graph."""

    def __init__(self, costs: Sequence[NodeCost], edges: Sequence[Edge]) -> None:
        self._costs, self._edges = costs, edges
        self._ms = sum(cost.floats for cost in costs) or 1.0
        self._noise = sum(edge.noise for edge in edges) or 1.0

    @property
    def floats(self) -> Placement:
        """The placement without INT8 nodes."""
        return self.of(frozenset())

    @property
    def everything(self) -> Placement:
        """The placement with every node that can run in INT8."""
        return self.of(frozenset(i for i, cost in enumerate(self._costs) if cost.integers < inf))

    def dearer(self, times: float) -> MinCutPartitioner:
        """The same graph with conversion times multiplied by `times`."""
        edges = [
            replace(edge, quantize=edge.quantize * times, dequantize=edge.dequantize * times) for edge in self._edges
        ]
        return MinCutPartitioner(self._costs, edges)

    def within(self, noise: float) -> Placement:
        """A fast placement with at most this noise."""
        return self.choices(noise)[1]

    def choices(self, noise: float) -> tuple[Placement, Placement]:
        """The fastest placement that some price gives within a noise limit, and the same one with nodes added.

        Optimal placements change in jumps as the price changes, so the first one may leave much of the noise limit
        unused.
        """
        low, high = _LOW, _HIGH
        fastest = self.at(low)
        if fastest.noise <= noise:
            return fastest, fastest
        best = self.floats
        for _ in range(_HALVINGS):
            middle = sqrt(low * high)
            found = self.at(middle)
            if found.noise <= noise:
                best, high = (found if found.ms <= best.ms else best), middle
            else:
                fastest, low = found, middle
            if high / low < 1.01:
                break
        return best, self._filled(best, fastest, noise)

    def _filled(self, best: Placement, beyond: Placement, noise: float) -> Placement:
        """Adds nodes, or connected groups of them, from a placement with too much noise, as long as they save time."""
        left = beyond.integers - best.integers
        groups = [*self._neighbours(left), *(frozenset((i,)) for i in sorted(left))]
        while True:
            more = [self.of(best.integers | group) for group in groups if not group <= best.integers]
            more = [one for one in more if one.noise <= noise and one.ms < best.ms]
            if not more:
                return best
            best = min(more, key=lambda one: one.ms)

    def _neighbours(self, nodes: frozenset[int]) -> list[frozenset[int]]:
        """Connected components of these nodes."""
        count = len(self._costs)
        pairs = [
            (edge.maker, reader)
            for edge in self._edges
            for reader in edge.readers
            if edge.maker in nodes and reader in nodes
        ]
        rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
        graph = scipy.sparse.csr_array((np.ones(len(pairs), np.int8), (rows, columns)), shape=(count, count))
        _, labels = scipy.sparse.csgraph.connected_components(graph, directed=False)
        parts: dict[int, set[int]] = {}
        for node in sorted(nodes):
            parts.setdefault(int(labels[node]), set()).add(node)
        return [frozenset(part) for part in parts.values()]

    def at(self, price: float) -> Placement:
        """The placement that minimises time plus `price` times noise, both relative to their totals."""
        worth = price * self._ms / self._noise
        nodes, edges = len(self._costs), len(self._edges)
        source, sink, first = nodes + edges, nodes + edges + 1, nodes
        arcs: list[tuple[int, int, float]] = []  # cut, and so paid, if the first is float and the second INT8
        for i, cost in enumerate(self._costs):
            arcs += [(source, i, cost.integers), (i, sink, cost.floats)]
        for j, edge in enumerate(self._edges):
            value = first + j  # on the INT8 side if the value is rounded
            maker, noise = source if edge.maker is None else edge.maker, edge.noise * worth
            arcs.append((maker if edge.moved else source, value, noise))
            arcs.append((maker, value, edge.quantize))
            arcs += [(value, reader, inf) for reader in edge.readers]  # an INT8 node reads rounded values
            if edge.maker is not None and not edge.free:
                arcs.append((value, edge.maker, inf))  # and writes them
                arcs += [(reader, edge.maker, edge.dequantize) for reader in edge.readers]
                arcs += [(source, edge.maker, edge.dequantize)] if edge.seen else []
        return self.of(frozenset(i for i in _cut(arcs, source, sink) if i < nodes))

    def of(self, integers: frozenset[int]) -> Placement:
        """The placement of exactly these nodes in INT8, with its costs."""
        ms = sum(cost.integers if i in integers else cost.floats for i, cost in enumerate(self._costs))
        noise, rounded = 0.0, set()
        for j, edge in enumerate(self._edges):
            inside = edge.maker in integers
            back = sum(reader not in integers for reader in edge.readers) + edge.seen
            if not integers.isdisjoint(edge.readers) or (inside and not edge.free):
                rounded.add(j)
                noise += 0.0 if inside and edge.moved else edge.noise
                ms += 0.0 if inside else edge.quantize
            if inside and not edge.free:
                ms += back * edge.dequantize
        return Placement(integers, frozenset(rounded), ms, noise)


def _cut(arcs: Sequence[tuple[int, int, float]], source: int, sink: int) -> set[int]:
    """The vertices on the sink's side of a minimum cut."""
    finite = sum(cost for _, _, cost in arcs if cost < inf) or 1.0
    pairs: dict[tuple[int, int], int] = {}
    for a, b, cost in arcs:
        capacity = _NEVER if cost == inf else min(_NEVER, round(cost / finite * _TOTAL))
        pairs[a, b] = min(_NEVER, pairs.get((a, b), 0) + capacity)
        pairs.setdefault((b, a), 0)
    rows, columns = np.array(list(pairs), np.int32).T
    count = max(source, sink) + 1
    graph = scipy.sparse.csr_array((np.array(list(pairs.values()), np.int32), (rows, columns)), shape=(count, count))
    flow = scipy.sparse.csgraph.maximum_flow(graph, source, sink).flow
    left = scipy.sparse.csr_array(graph - flow)
    reached, waiting = {source}, deque([source])
    while waiting:
        node = waiting.popleft()
        row = slice(left.indptr[node], left.indptr[node + 1])
        for other in left.indices[row][left.data[row] > 0].tolist():
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return set(range(count)) - reached - {sink}
