"""Which nodes run in integers: the labels of least time, at a price for noise. Knows numbers, no graphs.

Every unit of a graph is float or integer. Each has a time as either, a value that passes from one kind to the other
takes time to convert, and a rounded value makes noise in the model's outputs. The sum of all that is least where a
graph of these costs is cut in two: a minimum cut (Greig, Porteous & Seheult 1989), exact and in milliseconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components, maximum_flow

_TOTAL = 2**28
"""What all costs together are scaled to: the flow is one of 32-bit integers."""
_NEVER = 2**30
_LOW, _HIGH, _HALVINGS = 1e-9, 1e12, 70
"""Prices of noise that are tried, relative to all time over all noise."""


@dataclass(frozen=True, slots=True)
class NodeCost:
    """What one unit takes, in milliseconds."""

    floats: float
    integers: float
    """Infinite where it cannot run in integers."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A value between units."""

    maker: int | None
    """The unit that makes it; None for the user's inputs."""
    readers: tuple[int, ...]
    seen: bool
    """Whether it is one of the model's outputs, which are floats."""
    noise: float
    """Power over signal in the model's outputs that rounding it makes."""
    quantize: float
    """Milliseconds of a float made an integer."""
    dequantize: float
    free: bool = False
    """Its maker gives floats or integers at no extra cost when it runs in integers."""
    moved: bool = False
    """Its maker only moves elements of a value: where it moves integers, they make no noise again."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Labels, and what they cost."""

    integers: frozenset[int]
    """Units."""
    rounded: frozenset[int]
    """Wires."""
    ms: float
    noise: float


class MinCutPartitioner:
    """Places the units of one graph."""

    def __init__(self, works: Sequence[NodeCost], wires: Sequence[Edge]) -> None:
        self._works, self._wires = works, wires
        self._ms = sum(work.floats for work in works) or 1.0
        self._noise = sum(wire.noise for wire in wires) or 1.0

    @property
    def floats(self) -> Placement:
        """Nothing in integers."""
        return self.of(frozenset())

    @property
    def everything(self) -> Placement:
        """All that can."""
        return self.of(frozenset(i for i, work in enumerate(self._works) if work.integers < inf))

    def dearer(self, times: float) -> MinCutPartitioner:
        """The same graph, where conversions take so many times as long."""
        wires = [replace(w, quantize=w.quantize * times, dequantize=w.dequantize * times) for w in self._wires]
        return MinCutPartitioner(self._works, wires)

    def within(self, noise: float) -> Placement:
        """A fast one that makes no more noise than this."""
        return self.choices(noise)[1]

    def choices(self, noise: float) -> tuple[Placement, Placement]:
        """The fastest that is best at some price and makes no more noise than this; and what more units make of it.

        Prices jump from placement to placement, and may leave much of the noise unspent.
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
        """With units, or groups of neighbours, of one that makes too much noise, as long as they save time."""
        left = beyond.integers - best.integers
        groups = [*self._neighbours(left), *(frozenset((i,)) for i in sorted(left))]
        while True:
            more = [self.of(best.integers | group) for group in groups if not group <= best.integers]
            more = [one for one in more if one.noise <= noise and one.ms < best.ms]
            if not more:
                return best
            best = min(more, key=lambda one: one.ms)

    def _neighbours(self, units: frozenset[int]) -> list[frozenset[int]]:
        """Parts of these units that values connect."""
        count = len(self._works)
        pairs = [
            (wire.maker, reader)
            for wire in self._wires
            for reader in wire.readers
            if wire.maker in units and reader in units
        ]
        rows, columns = np.array(pairs, np.int32).reshape(-1, 2).T
        graph = csr_array((np.ones(len(pairs), np.int8), (rows, columns)), shape=(count, count))
        _, labels = connected_components(graph, directed=False)
        parts: dict[int, set[int]] = {}
        for unit in sorted(units):
            parts.setdefault(int(labels[unit]), set()).add(unit)
        return [frozenset(part) for part in parts.values()]

    def at(self, price: float) -> Placement:
        """Least time and noise; `price` says how much of all time all noise is worth."""
        worth = price * self._ms / self._noise
        units, wires = len(self._works), len(self._wires)
        source, sink, first = units + wires, units + wires + 1, units
        edges: list[tuple[int, int, float]] = []  # cut, and so paid, where the first is float and the second integer
        for i, work in enumerate(self._works):
            edges += [(source, i, work.integers), (i, sink, work.floats)]
        for j, wire in enumerate(self._wires):
            value = first + j  # "integer" where the value is rounded
            maker, noise = source if wire.maker is None else wire.maker, wire.noise * worth
            edges.append((maker if wire.moved else source, value, noise))
            edges.append((maker, value, wire.quantize))
            edges += [(value, reader, inf) for reader in wire.readers]  # an integer unit reads rounded values
            if wire.maker is not None and not wire.free:
                edges.append((value, wire.maker, inf))  # and makes them
                edges += [(reader, wire.maker, wire.dequantize) for reader in wire.readers]
                edges += [(source, wire.maker, wire.dequantize)] if wire.seen else []
        return self.of(frozenset(i for i in _cut(edges, source, sink) if i < units))

    def of(self, integers: frozenset[int]) -> Placement:
        """What it costs to run these units in integers, and no others."""
        ms = sum(w.integers if i in integers else w.floats for i, w in enumerate(self._works))
        noise, rounded = 0.0, set()
        for j, wire in enumerate(self._wires):
            inside = wire.maker in integers
            back = sum(reader not in integers for reader in wire.readers) + wire.seen
            if not integers.isdisjoint(wire.readers) or (inside and not wire.free):
                rounded.add(j)
                noise += 0.0 if inside and wire.moved else wire.noise
                ms += 0.0 if inside else wire.quantize
            if inside and not wire.free:
                ms += back * wire.dequantize
        return Placement(integers, frozenset(rounded), ms, noise)


def _cut(edges: Sequence[tuple[int, int, float]], source: int, sink: int) -> set[int]:
    """The nodes on the sink's side of a minimum cut."""
    finite = sum(cost for _, _, cost in edges if cost < inf) or 1.0
    pairs: dict[tuple[int, int], int] = {}
    for a, b, cost in edges:
        capacity = _NEVER if cost == inf else min(_NEVER, round(cost / finite * _TOTAL))
        pairs[a, b] = min(_NEVER, pairs.get((a, b), 0) + capacity)
        pairs.setdefault((b, a), 0)
    rows, columns = np.array(list(pairs), np.int32).T
    count = max(source, sink) + 1
    graph = csr_array((np.array(list(pairs.values()), np.int32), (rows, columns)), shape=(count, count))
    flow = maximum_flow(graph, source, sink).flow
    left = csr_array(graph - flow)
    reached, waiting = {source}, deque([source])
    while waiting:
        node = waiting.popleft()
        row = slice(left.indptr[node], left.indptr[node + 1])
        for other in left.indices[row][left.data[row] > 0].tolist():
            if other not in reached:
                reached.add(other)
                waiting.append(other)
    return set(range(count)) - reached - {sink}
