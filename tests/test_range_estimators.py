"""Estimated ranges keep their guarantees, and predicted errors are those of a quantizer."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibration.range_estimators import Histogram, Range, candidates, error

Array = npt.NDArray[Any]
METHODS = {"minmax", "percentile", "entropy", "mse"}


def seen(*arrays: Array) -> Histogram:
    histogram = Histogram()
    for array in arrays:
        histogram.add(array)
    return histogram


def quantized(x: Array, chosen: Range, levels: int) -> Array:
    """Rounded as QuantizeLinear and DequantizeLinear do."""
    scale = (chosen.high - chosen.low) / (levels - 1)
    zero = np.rint(-chosen.low / scale)
    return (np.clip(np.rint(x.astype(np.float64) / scale) + zero, 0, levels - 1) - zero) * scale


def same(a: Histogram, b: Histogram) -> bool:
    alike = (a.count, a.strange, a.zeros, a.low, a.high) == (b.count, b.strange, b.zeros, b.low, b.high)
    return alike and all(np.array_equal(x, y) for x, y in zip(a.bins(), b.bins(), strict=True))


@st.composite
def data(draw: st.DrawFn) -> Array:
    """float32 of many shapes and scales, one-sided or not, with spikes, zeros and outliers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    size = draw(st.integers(1, 3000))
    kind = draw(st.sampled_from(["normal", "laplace", "standard_cauchy", "uniform"]))
    x = getattr(rng, kind)(size=size) * 10.0 ** draw(st.integers(-8, 8))
    x = x + draw(st.sampled_from([0, 0, 1.5])) * np.abs(x).max()
    x[rng.random(size) < draw(st.sampled_from([0, 0.5, 0.9]))] = 0
    bound = float(np.quantile(x, draw(st.sampled_from([0.7, 0.9, 1]))))
    x = np.minimum(x, bound)
    return draw(st.sampled_from([x, np.maximum(x, 0), np.minimum(x, 0)])).astype(np.float32)


@given(data(), st.sampled_from([3, 15, 16, 255, 256, 65536]), st.booleans())
@settings(deadline=None, max_examples=150)
def test_every_range_keeps_its_guarantees(x: Array, levels: int, symmetric: bool) -> None:
    histogram = seen(x)
    found = candidates(histogram, levels, symmetric)
    assert set(found) == METHODS
    assert found == candidates(seen(x), levels, symmetric)
    low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
    if symmetric:
        low, high = min(low, -high), max(high, -low)
    for one in found.values():
        assert one.low <= 0 <= one.high
        assert one.low < one.high
        assert (low <= one.low and one.high <= high) or not x.any()
        assert not symmetric or one.low == -one.high or not x.any()
        assert error(histogram, found["mse"], levels) <= error(histogram, one, levels)
    if x.any():
        assert (found["minmax"].low, found["minmax"].high) == (low, high)


@given(data(), st.lists(st.integers(0, 3000), max_size=4))
@settings(deadline=None)
def test_order_and_chunks_do_not_matter(x: Array, cuts: list[int]) -> None:
    pieces = [x[a:b] for a, b in itertools.pairwise([0, *sorted(cuts), len(x)])]
    assert same(seen(x), seen(*pieces))
    assert same(seen(x), seen(*reversed(pieces)))
    assert seen(x).zeros == int((x == 0).sum())
    assert seen(x).count == len(x)


@pytest.mark.parametrize("kind", ["normal", "laplace", "relu", "swish", "relu6"])
@pytest.mark.parametrize("levels", [15, 256])
def test_errors_are_those_of_a_quantizer(kind: str, levels: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.laplace(size=50_000) if kind == "laplace" else rng.normal(size=50_000) * 3
    shapes = {"relu": np.maximum(x, 0), "relu6": np.clip(x, 0, 6), "swish": x / (1 + np.exp(-x))}
    x = shapes.get(kind, x).astype(np.float32)
    histogram = seen(x)
    for chosen in (*candidates(histogram, levels).values(), Range(-0.1, 2), Range(-100, 100)):
        made = float(np.square(quantized(x, chosen, levels) - x).mean())
        assert error(histogram, chosen, levels) == pytest.approx(made, rel=0.02)


@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize("kind", ["normal", "laplace"])
@pytest.mark.slow
def test_mse_is_optimal(kind: str, levels: int) -> None:
    x = getattr(np.random.default_rng(1), kind)(size=20_000).astype(np.float32)
    histogram = seen(x)
    chosen = candidates(histogram, levels)["mse"]
    grid = np.linspace(0.1, 1, 40)
    least = min(error(histogram, Range(a * x.min(), b * x.max()), levels) for a in grid for b in grid)
    assert error(histogram, chosen, levels) <= 1.005 * least


def test_clipping_depends_on_the_number_of_levels() -> None:
    histogram = seen(np.random.default_rng(2).laplace(size=100_000).astype(np.float32))
    bounds = [candidates(histogram, levels)["mse"].high for levels in (4, 16, 256, 65536)]
    assert bounds == sorted(bounds)
    assert bounds[0] < 0.4 * bounds[2]
    assert bounds[-1] == histogram.high


def test_percentile_cuts_a_ten_thousandth() -> None:
    x = np.random.default_rng(3).normal(size=200_000).astype(np.float32)
    chosen = candidates(seen(x), 256)["percentile"]
    assert 6 <= (x > chosen.high).sum() <= 14
    assert 6 <= (x < chosen.low).sum() <= 14
    chosen = candidates(seen(np.abs(x)), 256)["percentile"]
    assert chosen.low == 0
    assert 16 <= (np.abs(x) > chosen.high).sum() <= 24


def test_entropy_clips_few_outliers_and_keeps_what_is_dense() -> None:
    rng = np.random.default_rng(4)
    dense = rng.uniform(0, 1, 100_000)
    assert candidates(seen(dense), 256)["entropy"].high > 0.98
    assert candidates(seen(dense, np.array([8.0])), 256)["entropy"].high < 1.5


def test_one_huge_outlier_does_not_blur_the_rest() -> None:
    x = np.random.default_rng(5).normal(size=100_000).astype(np.float32)
    histogram = seen(x, np.array([1e6]))
    assert error(histogram, Range(x.min(), x.max()), 256) > 1e6  # it counts...
    both = np.append(x, np.float32(1e6))
    wide = candidates(histogram, 65536)["minmax"]
    assert error(histogram, wide, 65536) == pytest.approx(
        np.square(quantized(both, wide, 65536) - both).mean(), rel=0.01
    )
    assert candidates(histogram, 256)["percentile"].high == pytest.approx(3.9, abs=0.4)  # ...or not


@pytest.mark.parametrize("symmetric", [False, True])
def test_a_constant(symmetric: bool) -> None:
    for value in (3.0, -3.0):
        histogram = seen(np.full((2, 3, 4), value))
        for one in candidates(histogram, 255, symmetric).values():
            assert max(-one.low, one.high) == 3
            assert error(histogram, one, 255) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("x", [np.empty(0), np.zeros(9), np.array([-0.0]), np.array([np.nan, np.inf, -np.inf])])
def test_no_finite_numbers(x: Array) -> None:
    histogram = seen(x)
    assert set(candidates(histogram, 256).values()) == {Range(0, 1)}
    assert error(histogram, Range(-1, 1), 256) == 0
    assert (histogram.low, histogram.high) == (0, 0)


def test_what_is_not_finite_is_counted_apart() -> None:
    x = np.array([1, np.nan, -2, np.inf, -np.inf, 0.5], np.float32)
    histogram = seen(x)
    assert (histogram.count, histogram.strange, histogram.low, histogram.high) == (3, 3, -2, 1)
    assert candidates(histogram, 256)["minmax"] == Range(-2, 1)
    assert same(seen(x), seen(x[:2], x[2:]))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.uint8, np.int64])
def test_other_types_of_numbers(dtype: type) -> None:
    x = np.arange(200).astype(dtype)
    assert same(seen(x), seen(x.astype(np.float32)))
    assert same(seen(x.reshape(10, 20).T), seen(x))


def test_numbers_at_the_ends_of_float32() -> None:
    x = np.random.default_rng(6).normal(size=1000)
    huge = seen((x * 9e37).astype(np.float32))
    for one in candidates(huge, 256).values():
        assert np.isfinite([one.low, one.high, error(huge, one, 256)]).all()
    assert set(candidates(seen((x * 1e-38).astype(np.float32)), 256).values()) == {Range(0, 1)}


def test_ranges_always_hold_zero() -> None:
    assert Range(2, 3) == Range(0, 3)
    assert Range(-3, -2) == Range(-3, 0)
    assert Range(0, 0) == Range(1, -1) == Range(0, 1)


def test_histograms_are_fast_and_small() -> None:
    histogram = seen(np.random.default_rng(7).standard_t(3, size=1_000_000).astype(np.float32))
    assert len(histogram.bins()[0]) < 20_000
    seconds = []
    for _ in range(5):
        start = time.process_time()
        candidates(histogram, 256)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.1  # 0.007 on a fast machine
