"""INT8 placements: as cheap as exhaustive search finds, and never above the allowed noise."""

from __future__ import annotations

import itertools
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.strategies.min_cut import Edge, MinCutPartitioner, NodeCost, Placement

Graph = tuple[list[NodeCost], list[Edge]]


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Up to six units, each reading values that earlier ones, or the user, make."""
    count = draw(st.integers(1, 6))
    ms, some = st.floats(0.01, 1), st.booleans()
    works = [NodeCost(draw(ms), draw(st.one_of(ms, st.just(inf)))) for _ in range(count)]
    wires = []
    for maker in range(-1, count):
        later = range(maker + 1, count)
        readers = draw(st.lists(st.sampled_from(later), max_size=2, unique=True)) if later else []
        moved = maker >= 0 and draw(some)
        wires.append(Edge(None if maker < 0 else maker, tuple(readers), draw(some), draw(ms) / 3, draw(ms) / 5,
                          draw(ms) / 5, maker >= 0 and not moved and draw(some), moved))  # fmt: skip
    return works, wires


def every(placer: MinCutPartitioner, works: list[NodeCost]) -> list[Placement]:
    able = [i for i, work in enumerate(works) if work.integers < inf]
    return [placer.of(frozenset(s)) for k in range(len(able) + 1) for s in itertools.combinations(able, k)]


@given(graphs(), st.floats(0.01, 30))
def test_a_cut_costs_as_little_as_any_placement(graph: Graph, price: float) -> None:
    works, wires = graph
    placer = MinCutPartitioner(works, wires)
    worth = price * sum(work.floats for work in works) / sum(wire.noise for wire in wires)

    def cost(placement: Placement) -> float:
        return placement.ms + worth * placement.noise

    least = min(map(cost, every(placer, works)))
    assert cost(placer.at(price)) == pytest.approx(least, rel=1e-5)


@given(graphs(), st.floats(0, 1))
def test_noise_stays_within_what_is_allowed(graph: Graph, allowed: float) -> None:
    placer = MinCutPartitioner(*graph)
    found = placer.within(allowed)
    assert found.noise <= allowed
    assert found.ms <= placer.floats.ms


def test_everything_runs_in_integers_where_that_costs_nothing() -> None:
    works = [NodeCost(1, 0.5), NodeCost(1, 0.5), NodeCost(1, inf)]
    wires = [Edge(None, (0,), False, 0, 0.1, 0.1), Edge(0, (1,), False, 0, 0.1, 0.1), Edge(1, (2,), False, 0, 0.1, 0.1)]
    found = MinCutPartitioner(works, wires).within(0)
    assert found.integers == {0, 1}
    assert found.rounded == {0, 1, 2}
    assert found.ms == pytest.approx(0.5 + 0.5 + 1 + 0.1 + 0.1)


def test_dear_conversions_keep_a_node_among_floats() -> None:
    works = [NodeCost(1, inf), NodeCost(1, 0.9), NodeCost(1, inf)]
    wires = [Edge(0, (1,), False, 0, 0.04, 0.04), Edge(1, (2,), False, 0, 0.04, 0.04)]
    placer = MinCutPartitioner(works, wires)
    assert placer.within(1).integers == {1}
    assert placer.dearer(3).within(1).integers == set()


def test_a_loud_value_stays_float() -> None:
    works = [NodeCost(1, 0.1), NodeCost(1, 0.1)]
    wires = [Edge(None, (0,), False, 0.0, 0, 0), Edge(0, (1,), False, 1.0, 0, 0)]
    placer = MinCutPartitioner(works, wires)
    assert placer.within(2).integers == {0, 1}
    assert placer.within(0.5).integers == set()  # the second needs what the first makes


def test_noise_that_no_price_spends_is_spent_all_the_same() -> None:
    """All three are worth it at the same price."""
    works = [NodeCost(1, 0.1)] * 3
    wires = [Edge(None, (i,), False, 1.0, 0, 0) for i in range(3)]
    assert len(MinCutPartitioner(works, wires).within(2.5).integers) == 2
