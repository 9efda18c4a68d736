"""Counts of classes and intervals of shares, against scikit-learn and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from scoring import check_against_sklearn

from onnxopt.data import Array
from onnxopt.measure.evaluation import Classification
from onnxopt.measure.evaluation.classification import Counts, answers
from onnxopt.measure.evaluation.intervals import paired, share

# ---- classes -------------------------------------------------------------------------------------------------------


def classified(scores: Array, labels: Array, batch: int = 7) -> Classification:
    counts = Counts()
    for i in range(0, len(labels), batch):
        part = scores[i : i + batch]
        counts.add(part, answers(part), labels[i : i + batch])
    found = counts.result()
    assert found is not None
    return found


@given(st.integers(1, 60), st.integers(2, 12), st.integers(0, 2**32), st.integers(1, 70), st.floats(0, 4))
def test_classes_are_counted_as_scikit_learn_does(n: int, classes: int, seed: int, batch: int, skill: float) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, rng.integers(1, classes + 1), n)  # some classes never occur
    scores = rng.normal(size=(n, classes)) + skill * np.eye(classes)[labels]
    check_against_sklearn(classified(scores, labels, batch), scores, labels)


def test_scores_of_nan_are_wrong_and_no_class() -> None:
    scores = np.eye(7)[[0, 1, 2, 2]]
    scores[1, 3] = np.nan
    found = classified(scores, np.array([0, 1, 2, 2]))
    assert found.top1.value == found.top5 == 0.75
    assert found.unanswered == 1
    assert found.confusion == ((0, 0, 1), (1, -1, 1), (2, 2, 2))
    assert [(c.index, c.recall, c.precision) for c in found.by_class] == [(0, 1, 1), (1, 0, 0), (2, 1, 1)]


# ---- intervals -----------------------------------------------------------------------------------------------------


@given(st.integers(0, 500), st.integers(1, 500))
def test_shares_have_wilsons_interval(hits: int, samples: int) -> None:
    hits = min(hits, samples)
    found, wanted = share(hits, samples), binomtest(hits, samples).proportion_ci(0.95, "wilson")
    assert found.value == hits / samples
    assert (found.low, found.high) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


@given(st.integers(0, 3000), st.integers(0, 3000))
def test_the_test_is_mcnemars_exact_one(lost: int, won: int) -> None:
    found = paired(lost, won, 10_000)
    assert found.p == pytest.approx(binomtest(lost, lost + won).pvalue if lost + won else 1, rel=1e-9, abs=1e-99)
    mirrored = paired(won, lost, 10_000)
    assert mirrored.p == found.p
    assert mirrored.difference.low == -found.difference.high
    assert found.difference.low <= found.difference.value <= found.difference.high


def test_known_values() -> None:
    # Wilson, 81 of 263: Newcombe 1998, Statistics in Medicine 17:857, table I, method 3.
    assert (share(81, 263).low, share(81, 263).high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    # McNemar: Agresti, Categorical Data Analysis, approval ratings: 150 and 86 of 1,600 changed their mind.
    found = paired(150, 86, 1600)
    assert found.difference.value == pytest.approx(-0.04)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.0587, -0.0212), abs=1.5e-4)
    assert found.p == pytest.approx(3.7e-5, rel=0.05)
    assert found.verdict == "worse"


@pytest.mark.parametrize(
    ("lost", "won", "verdict"),
    [(0, 0, "no difference"), (1, 0, "no significant difference"), (0, 5, "no significant difference"),
     (0, 6, "better"), (6, 0, "worse"), (60, 50, "no significant difference"), (80, 50, "worse"), (50, 80, "better")],
)  # fmt: skip
def test_words_follow_the_test(lost: int, won: int, verdict: str) -> None:
    assert paired(lost, won, 10_000).verdict == verdict


def test_the_interval_of_the_difference_holds_the_truth_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    for samples, down, up in ((200, 0.02, 0.01), (1000, 0.01, 0.01), (50, 0.1, 0.2)):
        drawn = rng.multinomial(samples, [down, up, 1 - down - up], size=2000)
        held = [(d := paired(int(a), int(b), samples).difference).low <= up - down <= d.high for a, b, _ in drawn]
        assert np.mean(held) >= 0.95 - norm.ppf(0.999) * (0.95 * 0.05 / 2000) ** 0.5
