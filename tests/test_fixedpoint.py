"""Dynamic fixed point agrees with its definition, in plain Python."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from builders import weights
from classical import Array, applied, matrices, one_weight
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import encoding
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Affine
from onnxopt.errors import OnnxoptError
from onnxopt.passes import PASSES, Skip
from onnxopt.passes.quantise.codebook import Codebook
from onnxopt.passes.quantise.fixedpoint import FixedPoint
from onnxopt.passes.quantise.prune import Prune
from onnxopt.spec.plan import Step


def reference(values: list[float], bits: int) -> list[Fraction]:
    """Gysel, Motamedi & Ghiasi: il = ceil(log2 max|x|) + 1, fl = bits - il, nearest, saturating."""
    largest = max(abs(Fraction(x)) for x in values)
    length = 1
    while Fraction(2) ** (length - 1) < largest:
        length += 1
    while Fraction(2) ** (length - 2) >= largest:
        length -= 1
    step = Fraction(2) ** (length - bits)
    return [min(max(round(Fraction(x) / step), -(2 ** (bits - 1))), 2 ** (bits - 1) - 1) * step for x in values]


@given(matrices(), st.integers(2, 16))
@settings(deadline=None)
def test_it_is_what_the_papers_say(w: Array, bits: int) -> None:
    wanted = np.array([float(x) for x in reference(w.ravel().tolist(), bits)]).reshape(w.shape).astype(w.dtype)
    got = applied(w, FixedPoint(bits))
    assert got.dtype == w.dtype
    assert (got == wanted).all()


@pytest.mark.parametrize(("largest", "step"), [(1.0, 2**-7), (1.0001, 2**-6), (0.5, 2**-8), (0.26, 2**-8), (100, 1)])
def test_steps_of_eight_bits(largest: float, step: float) -> None:
    w = (weights(16, 16) * 1e-9).astype(np.float32)
    w[0, 0] = -largest  # the most negative number of its length
    graph, site = one_weight(w)
    FixedPoint(8).apply(graph, site, Stats())
    weight = graph.encoding("w")
    assert isinstance(weight, Affine)
    assert weight.q.flat[0] == -round(largest / step)
    assert weight.values().flat[0] == -round(largest / step) * step


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e38])
def test_at_the_ends_of_float32(scale: float) -> None:
    w = (np.sign(weights(16, 16)) * scale).astype(np.float32)
    got = applied(w, FixedPoint(8))
    assert np.isfinite(got).all()
    assert np.abs(got - w).max() <= max(0.01 * scale, 2.0**-126)


def test_zeros_stay_zeros_and_tables_stay_tables() -> None:
    w = weights(64, 48)
    pruned = applied(w, Prune(keep=0.3))
    assert not applied(w, Prune(keep=0.3), FixedPoint(8))[pruned == 0].any()
    graph, site = one_weight(w)
    for one in (Prune(keep=0.3), Codebook(16), FixedPoint(6)):
        one.apply(graph, site, Stats())
    weight = graph.encoding("w")
    assert isinstance(weight, encoding.Codebook)
    assert not weight.values()[pruned == 0].any()
    shared = applied(w, Prune(keep=0.3), Codebook(16))
    assert (weight.values() == applied(shared, FixedPoint(6))).all()


@pytest.mark.parametrize(("poison", "reason"), [(np.nan, "NaN"), (np.inf, "infinities"), (0, "all zeros")])
def test_no_numbers(poison: float, reason: str) -> None:
    w = weights(16, 16) * (poison != 0)
    w[3, 4] = poison
    with pytest.raises(Skip, match=reason):
        applied(w, FixedPoint(8))


@pytest.mark.parametrize("step", ["fixedpoint", *(f"fixedpoint{{bits={bits}}}" for bits in (1, 17, 8.5, '"8"'))])
def test_a_wrong_step_says_why(step: str) -> None:
    with pytest.raises(OnnxoptError, match="bits"):
        PASSES["fixedpoint"].from_step(Step.parse(step))
