"""Weight sharing: optimal clusters, efficient search, and estimated bits that match the file."""

from __future__ import annotations

import time
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from builders import weights
from classical import Array, Calibrated, applied, entropy, matrices, needs_data, one_weight, real, small
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import encoding, native
from onnxopt.build import container
from onnxopt.build.execute_plan import execute_plan
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Encoding
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Site
from onnxopt.passes import PASSES, Pass, Skip
from onnxopt.passes.math.kmeans import Init, cluster, even
from onnxopt.passes.quantise.codebook import Codebook
from onnxopt.passes.quantise.fixedpoint import FixedPoint
from onnxopt.passes.quantise.prune import Prune
from onnxopt.spec.plan import Plan, Step

INITS = st.sampled_from(get_args(Init))
FINE = 1e-3
"""Bins in the body of the weights are finer than so many of their mean magnitudes."""


# ---- clusters ------------------------------------------------------------------------------------------------------


@given(matrices(), st.integers(2, 40), INITS, st.booleans())
@settings(deadline=None)
def test_every_weight_has_the_nearest_value_and_every_value_is_a_mean(
    w: Array, k: int, init: Init, weighted: bool
) -> None:
    w = w.astype(np.float64)
    h = np.random.default_rng(0).uniform(0.5, 2, w.shape) if weighted else np.ones(w.shape)
    index, table = cluster(w, k, h, init=init)
    assert index.shape == w.shape
    assert len(table) <= k
    got = table[index]
    assert (got[w == 0] == 0).all()
    there = w != 0
    nearest = np.abs(w[..., None] - table[np.unique(index[there])]).min(-1)
    fine = FINE * (np.abs(w[there]).mean() + np.abs(w))  # borders lie between bins
    assert (np.abs(w - got) <= nearest + fine)[there].all()
    for i in np.unique(index[there]):
        mine = there & (index == i)
        assert table[i] == pytest.approx(np.average(w[mine], weights=h[mine]), rel=1e-5, abs=1e-12)


@given(matrices(), INITS)
@settings(deadline=None)
def test_enough_values_lose_nothing(w: Array, init: Init) -> None:
    w = w.astype(np.float64)
    values = np.unique(w)
    index, table = cluster(w, max(2, len(values)), init=init)
    assert (table[index] == w).all()
    assert len(table) == len(values)


@pytest.mark.parametrize("shift", [-140, 120])
def test_units_do_not_matter(shift: int) -> None:
    w = weights(100, 100).astype(np.float64)
    for price in (0.0, 0.01):
        index, table = cluster(w, 32, 1.0, price)
        other, scaled = cluster(np.ldexp(w, shift), 32, 1.0, price * 4.0**shift)
        assert (index == other).all()
        np.testing.assert_allclose(scaled, np.ldexp(table, shift), rtol=1e-12)


def test_a_far_weight_leaves_the_others_their_values() -> None:
    w = weights(100, 100).astype(np.float64)
    errors = []
    for w[0, 0] in (1, -1e6):
        index, table = cluster(w, 256, init="density")
        errors.append(np.abs(w - table[index]))
    assert errors[1][0, 0] < 1e-6
    assert np.square(errors[1]).mean() < 1.1 * np.square(errors[0]).mean()


@pytest.mark.parametrize("init", get_args(Init))
def test_k_means_is_as_good_as_the_exact_optimum(init: Init) -> None:
    """Of a normal distribution, Lloyd-Max: 8 levels make a mean squared error of 0.0345 (Max 1960, table I)."""
    w = np.random.default_rng(0).standard_normal((1000, 200))
    index, table = cluster(w, 8, init=init)
    assert np.square(w - table[index]).mean() == pytest.approx(0.03454, rel=0.02)


def test_a_price_buys_bits_for_error() -> None:
    w = weights(200, 200).astype(np.float64)

    def outcome(price: float) -> tuple[float, float]:
        index, table = cluster(w, 64, price=price)
        return entropy(index), float(np.square(w - table[index]).mean())

    plain_bits, plain_error = outcome(0)
    prices = (1e-3, 1e-2, 0.1, 1.0)
    bits, errors = zip(*map(outcome, prices), strict=True)
    assert list(bits) == sorted(bits, reverse=True)
    assert list(errors) == sorted(errors)
    for price, bit, error in zip(prices, bits, errors, strict=True):
        assert error + price * bit <= plain_error + price * plain_bits


def test_with_a_price_it_beats_a_uniform_grid_at_equal_bits() -> None:
    """By what Sullivan (1996) gives for Laplace at a low rate: a tenth of the error at 1.6 bits."""
    w = np.random.default_rng(0).laplace(size=(500, 400))
    index, table = cluster(w, 256, price=0.3)
    wanted = entropy(index)
    steps = np.geomspace(1, 4, 60)
    uniform = [(entropy(np.rint(w / d)), float(np.square(w - np.rint(w / d) * d).mean())) for d in steps]
    rates, errors = np.array(uniform)[::-1].T
    at_equal_bits = np.exp(np.interp(wanted, rates, np.log(errors)))
    assert np.square(w - table[index]).mean() < 0.93 * at_equal_bits


@pytest.mark.parametrize("spread", [0.0, 1.5])
@pytest.mark.parametrize("zeros", [0.0, 0.8])
def test_with_a_price_no_weight_is_better_off_elsewhere(spread: float, zeros: float) -> None:
    rng = np.random.default_rng(0)
    w = np.where(rng.random((200, 200)) < zeros, 0, rng.laplace(size=(200, 200)))
    h = np.exp(rng.normal(0, spread, w.shape))
    price = 0.05
    index, table = cluster(w, 64, h, price)
    counts = np.bincount(index.ravel(), minlength=len(table))
    assert counts.all()
    bits = -np.log2(counts / w.size)
    costs = h[..., None] * np.square(w[..., None] - table) + price * bits
    ours, best = np.take_along_axis(costs, index[..., None], -1)[..., 0], costs.min(-1)
    there = w != 0
    assert ours[there].sum() <= best[there].sum() * 1.003
    assert not table[index][~there].any()


@given(matrices(), st.integers(3, 40), st.floats(2**-6, 4), st.booleans())
@settings(deadline=None)
def test_even_borders_and_means(w: Array, k: int, step: float, weighted: bool) -> None:
    w = w.astype(np.float64)
    h = np.random.default_rng(0).uniform(0.5, 2, w.shape) if weighted else np.ones(w.shape)
    index, table = even(w, k, step, h)
    assert len(table) <= k
    got = table[index]
    assert (got[w == 0] == 0).all()
    step = max(step, np.abs(w).max() / ((k - 1) // 2 + 0.5))
    assert (np.abs(w - got) <= step * (1 + 1e-9)).all()
    assert (np.abs(w[got == 0]) <= step / 2 * (1 + 1e-9)).all()
    for i in np.unique(index[got != 0]):
        mine = index == i
        assert np.ptp(w[mine]) <= step * (1 + 1e-9)
        assert table[i] == pytest.approx(np.average(w[mine], weights=h[mine]), rel=1e-9, abs=1e-12)


def test_means_make_less_error_than_middles() -> None:
    w = np.random.default_rng(0).laplace(size=(500, 400))
    index, table = even(w, 256, 2.0)
    assert np.square(w - table[index]).mean() < 0.9 * np.square(w - 2 * np.rint(w / 2)).mean()


def test_what_counts_more_is_held_closer() -> None:
    w = np.random.default_rng(0).standard_normal((2, 20000)) + np.array([[0], [3]])
    index, table = cluster(w, 8, np.array([[100.0], [1.0]]))
    loud, quiet = np.square(w - table[index]).mean(1)
    assert loud < quiet / 3


@pytest.mark.slow
def test_ten_million_weights_take_seconds() -> None:
    w = np.random.default_rng(0).laplace(size=10_000_000)
    for price in (0.0, 0.01):
        started = time.process_time()
        cluster(w, 256, price=price)
        assert time.process_time() - started < 10


# ---- the pass ------------------------------------------------------------------------------------------------------


def encoded(w: Array, *passes: Pass) -> Encoding:
    graph, site = one_weight(w)
    for one in passes:
        one.apply(graph, site, Stats())
    return graph.encoding("w")


@given(matrices(), st.sampled_from([2, 3, 16, 256]), INITS, st.sampled_from([0.0, 0.01]))
@settings(deadline=None)
def test_it_is_stored_as_a_table(w: Array, k: int, init: Init, price: float) -> None:
    check_table(encoded(w, Codebook(k, init, entropy=price)), w, k)


@given(matrices(), st.sampled_from([3, 16, 256]), st.floats(2**-6, 4))
@settings(deadline=None)
def test_a_grid_is_stored_as_a_table(w: Array, k: int, grid: float) -> None:
    check_table(encoded(w, Codebook(k, grid=grid)), w, k)


def check_table(weight: Encoding, w: Array, k: int) -> None:
    assert isinstance(weight, encoding.Codebook)
    assert weight.table.dtype == w.dtype
    assert len(np.unique(weight.table)) == len(weight.table) <= k
    assert weight.index.shape == w.shape
    counts = np.bincount(weight.index.ravel(), minlength=len(weight.table))
    assert counts.all()
    assert (np.diff(counts) <= 0).all()  # the most frequent first
    assert not weight.values()[w == 0].any()


@pytest.mark.parametrize("steps", [
    (Prune(keep=0.3), Codebook(16)),
    (Prune(keep=0.3), Codebook(64, entropy=0.01)),
    (Prune(keep=0.3), FixedPoint(6), Codebook(16)),
    (Codebook(16), Prune(keep=0.3)),
    (FixedPoint(6), Prune(keep=0.3), Codebook(8), Prune(keep=0.2)),
    (Codebook(64), Codebook(8), FixedPoint(4)),
])  # fmt: skip
def test_passes_in_any_order(steps: tuple[Pass, ...]) -> None:
    w = weights(64, 48)
    zero = np.zeros(w.shape, bool)
    for count in range(1, len(steps) + 1):
        got = applied(w, *steps[:count])
        assert got.dtype == w.dtype
        assert not got[zero].any()  # what one makes zero the next ones leave
        zero = got == 0
    packed = container.write(b"", {"w": encoded(w, *steps)}, "{}")
    with native.Container(packed) as stored:
        assert stored.decode()["w"].tobytes() == got.tobytes()


@pytest.mark.parametrize("price", [0.002, 0.03, 0.3])
@pytest.mark.parametrize("keep", [1.0, 0.12])
def test_its_bits_are_the_files(price: float, keep: float) -> None:
    weight = encoded(weights(500, 800), Prune(keep=keep), Codebook(entropy=price))
    assert isinstance(weight, encoding.Codebook)
    assert coded_bits(weight) == pytest.approx(entropy(weight.index), rel=0.01)


def coded_bits(weight: Encoding) -> float:
    """Bits a weight of the container's entry."""
    with native.Container(container.write(b"", {"w": weight}, "{}")) as stored:
        (entry,) = (entry for entry in stored.entries if entry.name == "w")
        return 8 * entry.coded_size / int(np.prod(entry.dims))


@pytest.mark.parametrize(("poison", "reason"), [(np.nan, "NaN"), (np.inf, "infinities"), (0, "all zeros")])
def test_no_numbers(poison: float, reason: str) -> None:
    w = weights(16, 16) * (poison != 0)
    w[3, 4] = poison
    with pytest.raises(Skip, match=reason):
        applied(w, Codebook(8))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("codebook{k=1}", "k is 1, expected 2 to 256"),
        ("codebook{k=257}", "k is 257"),
        ("codebook{k=8.5}", "k is 8.5"),
        ('codebook{init="best"}', "init is 'best', expected linear, random, density"),
        ("codebook{entropy=-1}", "entropy is -1"),
        ("codebook{grid=-1}", "grid is -1"),
        ("codebook{k=2,grid=1}", "a grid has 3 values or more"),
        ("codebook{grid=1,entropy=1}", "a grid has 3 values or more, no entropy"),
        ("codebook{bits=4}", "not bits"),
    ],
)
def test_a_wrong_step_says_why(step: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        PASSES["codebook"].from_step(Step.parse(step))


# ---- with what meets the weights -----------------------------------------------------------------------------------


def weighted(found: Calibrated, site: Site, *passes: Pass) -> tuple[float, float]:
    """Bits a weight, and the error that the Hessian's diagonal gives it."""
    got, stats = found.applied(site, *passes), found.of(site)
    assert stats.linear is not None
    assert stats.moments is not None
    error = stats.linear.matrix(got - found.graph.values(site.path))
    return entropy(got), float((np.square(error).sum(1) * stats.moments.power).sum() * stats.gain)


def gains(found: Calibrated, site: Site, ours: list[Codebook]) -> list[float]:
    """Their weighted error over that of plain k-means at as many bits."""
    plain = sorted(weighted(found, site, Codebook(k)) for k in (3, 4, 6, 8, 11, 16, 23, 32, 45, 64))
    rates, errors = np.array(plain).T
    made = [weighted(found, site, one) for one in ours]
    return [error / np.exp(np.interp(rate, rates, np.log(errors))) for rate, error in made]


def test_importance_is_what_meets_the_weights(tmp_path: Path) -> None:
    found = small(tmp_path)
    for site in found.sites:
        assert np.mean(gains(found, site, [Codebook(k, hessian=True) for k in (8, 16, 32)])) < 1


def test_one_price_buys_alike_in_every_layer(tmp_path: Path) -> None:
    """Where a bit less quadruples the error, one of `price / (2 ln 2)` a weight is where that is worth it."""
    found = small(tmp_path)
    for site in found.sites:
        price = 1e-6
        _, error = weighted(found, site, Codebook(hessian=True, entropy=price))
        assert error / site.elements == pytest.approx(price / (2 * np.log(2)), rel=0.35)


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("model", "images", "every"), [("lenet5", 1000, 2), ("resnet20", 50, 8)])
def test_hessian_and_price_beat_plain_k_means_on_real_layers(
    model: str, images: int, every: int, tmp_path: Path
) -> None:
    """In weighted error at equal bits: a price in every layer, the Hessian over all, as within one it varies less."""
    found = real(model, images, tmp_path)
    hessian, price = [], []
    for site in [site for site in found.sites if site.elements >= 2000][::every]:
        hessian += gains(found, site, [Codebook(k, hessian=True) for k in (8, 16, 32)])
        _, error = weighted(found, site, Codebook(16))
        prices = [error / site.elements * 2 * np.log(2) * factor for factor in (0.3, 1, 3)]
        ours = gains(found, site, [Codebook(hessian=True, entropy=one) for one in prices])
        assert np.mean(ours) < 0.95, site.path
        price += ours
    assert np.exp(np.log(hessian).mean()) < 0.99
    assert np.exp(np.log(price).mean()) < 0.85


@needs_data
@pytest.mark.slow
def test_the_bits_of_a_real_layer_are_the_files(tmp_path: Path) -> None:
    found = real("lenet5", 500, tmp_path)
    site = max(found.sites, key=lambda site: site.elements)
    for price in (1e-11, 1e-10, 1e-9):
        found.applied(site, Codebook(hessian=True, entropy=price))
        weight = found.graph.encoding(site.path)
        assert isinstance(weight, encoding.Codebook)
        assert coded_bits(weight) <= 1.01 * entropy(weight.index), price


# ---- one table for several weights ---------------------------------------------------------------------------------


def run_plan(found: Calibrated, step: str) -> dict[str, Encoding]:
    steps = {site.path: Step.parse(step) for site in found.sites}
    execute_plan(found.graph, Plan("", steps), found.statistics)
    return {site.path: found.graph.encoding(site.path) for site in found.sites}


@pytest.mark.parametrize("before", ["", "prune{keep=0.4,compensate=true} > "])
@pytest.mark.parametrize("how", ["k=16", "k=16,hessian=true", "entropy=1e-3", "grid=0.05"])
def test_a_group_shares_one_table(before: str, how: str, tmp_path: Path) -> None:
    found = small(tmp_path)
    alone = run_plan(found, f"{before}codebook{{{how}}}")
    encodings = run_plan(found, f'{before}codebook{{{how},group="all"}}')
    first, second = encodings.values()
    assert isinstance(first, encoding.Codebook)
    assert isinstance(second, encoding.Codebook)
    assert first.table.tobytes() == second.table.tobytes()
    counts = sum(np.bincount(weight.index.ravel(), minlength=len(first.table)) for weight in (first, second))
    assert (counts > 0).all()
    assert (np.diff(counts) <= 0).all()
    for path, weight in encodings.items():
        assert ((weight.values() == 0) == (alone[path].values() == 0)).all() or how.startswith(("entropy", "grid"))
    packed = container.write(b"", encodings, "{}")
    with native.Container(packed) as stored:
        decoded = stored.decode()
        assert sum(entry.hidden for entry in stored.entries) == 1  # the one table
    for path, weight in encodings.items():
        assert decoded[path].tobytes() == weight.values().tobytes()


def test_a_group_is_clustered_as_if_it_were_one_weight(tmp_path: Path) -> None:
    found = small(tmp_path)
    encodings = run_plan(found, 'codebook{k=16,group="all"}')
    whole = np.concatenate([found.graph.values(site.path).ravel() for site in found.sites]).astype(np.float64)
    index, table = cluster(whole, 16)
    got = np.concatenate([weight.values().ravel() for weight in encodings.values()])
    np.testing.assert_allclose(got, table[index], rtol=1e-6)


def test_groups_of_other_names_keep_apart(tmp_path: Path) -> None:
    found = small(tmp_path)
    first, second = found.sites
    steps = {first.path: Step.parse('codebook{k=8,group="a"}'), second.path: Step.parse('codebook{k=8,group="b"}')}
    execute_plan(found.graph, Plan("", steps), found.statistics)
    for site in found.sites:
        index, table = cluster(found.graph.values(site.path).astype(np.float64), 8)
        np.testing.assert_allclose(found.graph.encoding(site.path).values(), table[index], rtol=1e-6)
