"""The search spends error where it saves most bits."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.search import MOST_ERROR, TRUST, Candidate, spread_error
from onnxopt.stats import fill_in

candidates = st.lists(st.tuples(st.integers(64, 10**7), st.floats(1e-3, 1e3)), min_size=1, max_size=20).map(
    lambda pairs: [Candidate(str(i), n, g) for i, (n, g) in enumerate(pairs)]
)


@given(candidates, st.floats(1e-3, 1))
def test_noises_add_up_to_what_was_asked(sites: list[Candidate], error: float) -> None:
    errors = spread_error(sites, error)
    power = sum(c.gain**TRUST * errors[c.path] ** 2 for c in sites)
    capped = any(e == MOST_ERROR for e in errors.values())
    assert power <= error**2 * 1.02
    assert capped or power == pytest.approx(error**2, rel=0.02)


@given(candidates, st.floats(1e-3, 0.1), st.data())
def test_no_exchange_between_two_weights_saves_bits(sites: list[Candidate], error: float, data: st.DataObject) -> None:
    """Moving noise power from one weight to another never lowers the total of bits: the optimum of a convex problem."""
    errors = spread_error(sites, error)
    free = [c for c in sites if errors[c.path] < MOST_ERROR]
    if len(free) < 2:
        return
    a, b = data.draw(st.permutations(free))[:2]
    moved = 0.2 * min(c.gain**TRUST * errors[c.path] ** 2 for c in (a, b))

    def bits(c: Candidate, change: float) -> float:
        return -0.5 * c.elements * math.log2(errors[c.path] ** 2 + change / c.gain**TRUST)

    before = bits(a, 0) + bits(b, 0)
    assert bits(a, moved) + bits(b, -moved) >= before - 1e-3 * abs(before)


def test_gains_that_say_nothing_count_as_the_largest() -> None:
    measured = {"a": 2.0, "b": 8.0, "dead": 0.0, "broken": math.inf, "nan": math.nan, "tiny": 1e-9}
    stats = fill_in(measured, [*measured, "unmeasured"])
    assert {path for path, s in stats.items() if s.gain == 8} == {"b", "dead", "broken", "nan", "unmeasured"}
    assert stats["a"].gain == 2
    assert 0 < stats["tiny"].gain < 1
