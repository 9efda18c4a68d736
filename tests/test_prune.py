"""Pruning: the least important weights become zero, and the remaining ones compensate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import weights
from classical import Array, Calibrated, applied, matrices, needs_data, one_weight, real, small
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import encoding
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Affine, Raw
from onnxopt.errors import OnnxoptError
from onnxopt.passes import PASSES, Skip
from onnxopt.passes.quantise.codebook import Codebook
from onnxopt.passes.quantise.fixedpoint import FixedPoint
from onnxopt.passes.quantise.prune import Prune
from onnxopt.spec.plan import Step


@given(matrices(), st.floats(0.001, 1))
@settings(deadline=None)
def test_the_largest_stay_as_they_are(w: Array, keep: float) -> None:
    got = applied(w, Prune(keep=keep))
    assert got.dtype == w.dtype
    kept = got != 0
    assert (got[kept] == w[kept]).all()
    gone = np.abs(w[~kept])
    if kept.any() and gone.size:
        assert gone.max() < np.abs(w[kept]).min()  # what ties stays together
    smallest = np.sort(np.abs(w), axis=None)[-max(1, round(keep * w.size))]
    assert np.count_nonzero(kept) == np.count_nonzero((np.abs(w) >= smallest) & (w != 0))


@given(matrices(), st.floats(0.01, 4))
@settings(deadline=None)
def test_thresholds(w: Array, threshold: float) -> None:
    wide = w.astype(np.float64)
    assert (applied(w, Prune(below=threshold)) == np.where(np.abs(wide) >= threshold, w, 0)).all()
    assert (applied(w, Prune(sigma=threshold)) == np.where(np.abs(wide) >= threshold * wide.std(), w, 0)).all()


@given(matrices(), st.integers(1, 4), st.integers(1, 4))
@settings(deadline=None)
def test_n_of_m_along_the_inputs(w: Array, n: int, more: int) -> None:
    m = n + more
    got = applied(w, Prune(n=n, m=m))
    for first in range(0, len(w), m):
        before, after = np.abs(w[first : first + m]), got[first : first + m]
        assert (np.count_nonzero(after, 0) <= n).all()
        assert (np.sort(np.abs(after), 0)[-n:] == np.sort(before, 0)[-n:]).all()  # the largest of each output


@pytest.mark.parametrize("grid", [FixedPoint(5), Codebook(8)])
@pytest.mark.parametrize("decision", [Prune(keep=0.3), Prune(below=0.8), Prune(n=2, m=4)])
def test_what_is_quantized_stays_so(grid: FixedPoint | Codebook, decision: Prune) -> None:
    w = weights(64, 48)
    before = applied(w, grid)
    graph, site = one_weight(w)
    for one in (grid, decision):
        one.apply(graph, site, Stats())
    weight = graph.encoding("w")
    assert isinstance(weight, Affine | encoding.Codebook)
    got = weight.values()
    assert ((got == before) | (got == 0)).all()
    assert 0 < np.count_nonzero(got) < np.count_nonzero(before)


def test_a_table_has_one_zero_however_often_it_is_pruned() -> None:
    graph, site = one_weight(weights(64, 48))
    for one in (Codebook(8), Prune(keep=0.8), Prune(keep=0.4), Prune(keep=0.1)):
        one.apply(graph, site, Stats())
    weight = graph.encoding("w")
    assert isinstance(weight, encoding.Codebook)
    assert np.count_nonzero(weight.table == 0) == 1
    assert np.count_nonzero(weight.values()) >= 0.1 * 64 * 48


def test_all_may_go() -> None:
    assert not applied(weights(64, 48), Prune(below=1e9)).any()


@pytest.mark.parametrize(("poison", "reason"), [(np.nan, "NaN"), (np.inf, "infinities"), (0, "all zeros")])
def test_no_numbers_to_prune(poison: float, reason: str) -> None:
    w = weights(16, 16) * (poison != 0)
    w[3, 4] = poison
    with pytest.raises(Skip, match=reason):
        applied(w, Prune(keep=0.5))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ("prune", "nothing given"),
        ("prune{keep=0.5,sigma=1}", "keep and sigma given"),
        ("prune{keep=0.5,n=2,m=4}", "keep and n and m given"),
        ("prune{keep=1.5}", "keep is 1.5"),
        ("prune{sigma=-1}", "threshold is -1"),
        ("prune{noise=-1}", "threshold is -1"),
        ("prune{keep=0.5,noise=1e-7}", "keep and noise given"),
        ("prune{n=4,m=4}", "n is 4 and m is 4"),
        ("prune{n=2}", "m is 0"),
        ("prune{n=1.5,m=4}", "n is 1.5"),
        ('prune{keep="half"}', "prune"),
        ("prune{bits=4}", "not bits"),
    ],
)
def test_a_wrong_step_says_why(step: str, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        PASSES["prune"].from_step(Step.parse(step))


# ---- with what meets the weights -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    return small(tmp_path_factory.mktemp("statistics"))


@pytest.mark.parametrize("keep", [1.0, 0.7, 0.5, 0.3, 0.1, 0.01])
def test_compensation_keeps_as_many_for_less_noise(measured: Calibrated, keep: float) -> None:
    for site in measured.sites:
        plain = measured.applied(site, Prune(keep=keep))
        ours = measured.applied(site, Prune(keep=keep, compensate=True))
        assert np.count_nonzero(ours) == np.count_nonzero(plain)
        assert measured.noise(site, ours) <= measured.noise(site, plain) * (1 + 1e-6)
        if 0.1 <= keep <= 0.7:
            assert measured.noise(site, ours) < 0.8 * measured.noise(site, plain)
        if keep == 1:
            assert (ours == measured.graph.values(site.path)).all()


@pytest.mark.parametrize("compensate", [False, True])
def test_layers_lose_what_makes_less_than_its_share_of_noise(measured: Calibrated, compensate: bool) -> None:
    every = sum(site.elements for site in measured.graph.sites())
    for site in measured.sites:
        stats, w = measured.of(site), measured.graph.values(site.path).astype(np.float64)
        assert stats.moments is not None
        made = np.square(w) * stats.gain * stats.moments.power.mean()
        for share in (0.02, 0.5, 0.9):
            noise = float((np.quantile(made, share) * every) ** 0.5)
            got = measured.applied(site, Prune(noise=noise, compensate=compensate))
            assert np.count_nonzero(got == 0) == pytest.approx(share * w.size, abs=1)


def test_noise_of_a_weight_that_nothing_is_known_of() -> None:
    w = weights(64, 48)
    graph, site = one_weight(w)
    Prune(noise=3 * 0.5 * w.size**0.5).apply(graph, site, Stats(gain=9))
    assert (graph.encoding("w").values() == np.where(np.abs(w) >= 0.5, w, 0)).all()


def test_dearer_decisions_make_less_noise(measured: Calibrated) -> None:
    for site in measured.sites:
        decisions = list(Prune.space(site, measured.of(site)))
        assert all(decision.compensate for decision in decisions)
        noises = [measured.noise(site, measured.applied(site, decision)) for decision in decisions]
        assert noises == sorted(noises, reverse=True)


def test_compensation_of_n_of_m(measured: Calibrated) -> None:
    for site in measured.sites:
        plain = measured.applied(site, Prune(n=2, m=4))
        ours = measured.applied(site, Prune(n=2, m=4, compensate=True))
        assert (np.count_nonzero(ours.reshape(-1, 4), 1) <= 2).all()  # outputs are the first axis here
        assert measured.noise(site, ours) < 0.8 * measured.noise(site, plain)


def test_one_column_is_compensated_by_the_best_there_is(measured: Calibrated) -> None:
    """Where the first column alone goes, the others become what least squares make of them, but for the damping."""
    site = measured.sites[0]
    stats = measured.of(site)
    assert stats.moments is not None
    assert stats.moments.feedback is not None
    w = measured.graph.values(site.path)
    w = np.copysign(np.abs(w) + 2, w)
    w[:, 0] = 0.1  # the least of all costs
    measured.graph.adjust(site.path, w)
    Prune(keep=1 - 1 / w.shape[1], compensate=True).apply(measured.graph, site, stats)
    stored = measured.graph.encoding(site.path)
    assert isinstance(stored, Raw)
    got = stored.values()
    assert (np.flatnonzero((got == 0).all(0)) == [0]).all()
    np.testing.assert_allclose(got[:, 1:], w[:, 1:] + 0.1 * stats.moments.feedback[0, 0, 1:], rtol=1e-5)


def test_the_bias_takes_up_the_mean(measured: Calibrated) -> None:
    """Of each pass, so that in the end it is that of the whole error."""
    site = measured.sites[0]
    moments = measured.of(site).moments
    assert moments is not None
    measured.graph.reset()
    before = measured.graph.values("b1")
    got = measured.applied(site, Prune(keep=0.3), Codebook(8))
    lost = (measured.graph.values("w1") - got) @ moments.mean[0]
    assert np.abs(lost).max() > 0.1
    np.testing.assert_allclose(measured.graph.values("b1"), before + lost, rtol=1e-4, atol=1e-4)


def test_compensation_does_not_leave_a_grid(measured: Calibrated) -> None:
    with pytest.raises(Skip, match="shared already"):
        measured.applied(measured.sites[0], FixedPoint(6), Prune(keep=0.3, compensate=True))


@needs_data
@pytest.mark.slow
def test_compensation_on_real_layers(tmp_path: Path) -> None:
    """LeNet-5 keeps 28 % of its weights at an eighth of the noise that magnitudes leave.

    The first layer, whose 25 inputs are hardly alike, keeps more than half of it.
    """
    found, before, after = real("lenet5", 1000, tmp_path), 0.0, 0.0
    for site in found.sites:
        plain = found.noise(site, found.applied(site, Prune(sigma=1.2)))
        ours = found.noise(site, found.applied(site, Prune(sigma=1.2, compensate=True)))
        assert ours < 0.6 * plain, site.path
        before, after = before + plain, after + ours
    assert after < before / 8
