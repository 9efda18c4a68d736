"""Metrics against scikit-learn and SciPy, in one piece and in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import rel_entr, softmax
from sklearn.metrics import top_k_accuracy_score

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics import METRICS, open_metric
from onnxopt.metrics.top_k import TopK

NAMES = ["cosine", "kl", "mse", "top1", "top5"]
"""Those that take scores [samples, classes], of any number of samples."""


def measure(
    metric: Any, outputs: list[Any], reference: list[Any], labels: Array | None = None, batch: int = 7
) -> float:
    """Over all samples, so many at a time."""
    score = open_metric(metric).start()
    for i in range(0, len(outputs[0]), batch):
        part = slice(i, i + batch)
        known = None if labels is None else labels[part]
        score.add([o[part] for o in outputs], [r[part] for r in reference], Batch({}, known))
    return float(score.value())


@st.composite
def cases(draw: st.DrawFn) -> tuple[Array, Array, Array]:
    """Scores [n, classes] of a model and of another that is a little off, and labels."""
    n, classes = draw(st.integers(1, 40)), draw(st.integers(6, 12))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    scores = rng.normal(0, 3, (n, classes)).astype(np.float32)
    return scores, scores + rng.normal(0, 2, scores.shape).astype(np.float32), rng.integers(0, classes, n)


@given(cases(), st.integers(1, 50))
def test_top_k_is_the_usual_accuracy(case: tuple[Array, Array, Array], batch: int) -> None:
    before, after, labels = case
    classes = np.arange(before.shape[1])
    for k in (1, 5):
        for scores in (before, after):
            wanted = 100 * top_k_accuracy_score(labels, scores, k=k, labels=classes)
            assert measure(f"top{k}", [scores], [before], labels, batch) == pytest.approx(wanted)
        agreement = 100 * top_k_accuracy_score(before.argmax(1), after, k=k, labels=classes)
        assert measure(f"top{k}", [after], [before], None, batch) == pytest.approx(agreement)
        assert measure(f"top{k}", [before], [before], None, batch) == 100


@given(cases(), st.integers(1, 50))
def test_divergence_and_relative_error(case: tuple[Array, Array, Array], batch: int) -> None:
    before, after, _ = case
    p, q = (softmax(x.astype(np.float64), axis=1) for x in (before, after))
    kl = rel_entr(p, q).sum(1).mean()
    assert measure("kl", [after], [before], None, batch) == pytest.approx(kl, rel=1e-6)
    assert measure("kl", [q], [p], None, batch) == pytest.approx(kl, rel=1e-6)
    mse = np.mean(np.square((after - before).astype(np.float64))) / np.mean(np.square(before.astype(np.float64)))
    assert measure("mse", [after], [before], None, batch) == pytest.approx(mse, rel=1e-6)


@given(cases())
def test_nothing_is_lost_by_the_original_and_worse_is_a_larger_drop(case: tuple[Array, Array, Array]) -> None:
    before, _, labels = case
    worse = before[:, ::-1].copy()
    for name in NAMES:
        metric = open_metric(name)
        original = measure(name, [before], [before])
        assert metric.drop(original, measure(name, [before.copy()], [before])) == 0
        assert metric.drop(original, measure(name, [worse], [before])) >= 0
    right = np.eye(before.shape[1], dtype=np.float32)[labels]
    gain = open_metric("top1").drop(
        measure("top1", [worse], [worse], labels), measure("top1", [right], [worse], labels)
    )
    assert gain <= 0


def test_relative_error_is_the_mean_over_float_outputs_whatever_their_scale() -> None:
    a, b = np.ones((4, 3), np.float32), np.full((4, 2, 2), 1e4, np.float32)
    classes = np.arange(4)
    assert measure("mse", [1.1 * a, classes, 1.3 * b], [a, classes[::-1], b]) == pytest.approx(
        (0.01 + 0.09) / 2, rel=1e-5
    )


@pytest.mark.parametrize("name", NAMES)
def test_an_output_of_nans_never_passes(name: str) -> None:
    before = np.random.default_rng(0).normal(size=(10, 8)).astype(np.float32)
    after = before.copy()
    after[3] = np.nan
    metric = open_metric(name)
    assert metric.drop(measure(name, [before], [before]), measure(name, [after], [before])) >= 10


def test_infinities_of_the_original_are_no_error() -> None:
    before = np.array([[0, 1, -np.inf], [2, -np.inf, 0]], np.float32)
    assert measure("mse", [before], [before]) == 0
    assert measure("kl", [before], [before]) == 0
    assert measure("mse", [np.nan_to_num(before)], [before]) == np.inf


def test_scores_are_found_among_outputs() -> None:
    scores = np.eye(6, dtype=np.float32)
    labels = np.arange(6)
    beside = [labels, [{}] * 6, np.zeros((6, 1), np.float32), np.zeros((6, 4, 5), np.float32)]
    assert measure("top1", [*beside, scores], [*beside, scores], labels) == 100
    assert measure("top1", [scores[:, :, None, None]], [scores[:, :, None, None]], labels[:, None]) == 100
    assert measure("top1", [scores[:, None, None]], [scores[:, None, None]], labels) == 100
    whole = (255 * scores).astype(np.uint8)
    assert measure("top1", [whole], [whole], labels) == 100
    assert measure("top1", [whole, -scores], [whole, -scores], labels) == 0, "float scores come first"


def test_among_equal_scores_the_first_class_wins() -> None:
    flat = np.zeros((4, 6), np.float32)
    assert measure("top1", [flat], [flat], np.array([0, 1, 2, 5])) == 25
    assert measure("top5", [flat], [flat], np.array([0, 1, 2, 5])) == 75


def test_a_function_gets_all_samples_at_once() -> None:
    seen = []

    def score(outputs: list[Array], labels: Array | None) -> float:
        seen.append(([o.shape for o in outputs], None if labels is None else labels.tolist()))
        return float(outputs[0].sum())

    a, b = np.ones((10, 2), np.float32), np.zeros((10, 3, 3), np.float32)
    assert measure(score, [a, b], [a, b], np.arange(10), batch=4) == 20
    assert measure(score, [a, b], [a, b], batch=4) == 20
    assert seen == [([(10, 2), (10, 3, 3)], list(range(10))), ([(10, 2), (10, 3, 3)], None)]
    metric = open_metric(score)
    assert metric.drop(20, 15) == 5
    assert "score" in metric.name


def test_a_function_cannot_get_outputs_of_two_lengths_at_once() -> None:
    score = open_metric(lambda outputs, labels: 1.0).start()
    score.add([np.ones((2, 5, 3), np.float32)], [], Batch({}))
    with pytest.raises(OnnxoptError, match=r"is \[2, 5, 3\] in one batch and \[2, 7, 3\] in another; choose one of"):
        score.add([np.ones((2, 7, 3), np.float32)], [], Batch({}))


def test_a_function_by_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_scores.py").write_text(
        "def good(outputs, labels):\n    return 1\n\n\ndef bad(outputs, labels):\n    return outputs[9]\n"
    )
    monkeypatch.chdir(tmp_path)
    ones = [np.ones((3, 2), np.float32)]
    assert measure("own_scores:good", ones, ones) == 1
    with pytest.raises(OnnxoptError, match=r"own_scores:bad: IndexError: .*own_scores.py, line 6"):
        measure("own_scores:bad", ones, ones)
    with pytest.raises(OnnxoptError, match=r"own_scores:none: AttributeError"):
        open_metric("own_scores:none")


def wrong() -> Iterator[Any]:
    scores = np.zeros((4, 10), np.float32)
    yield "top1", scores, np.array([0, 1, 2, 10]), "label 10, and the model's 10 classes are 0 to 9"
    yield "top1", scores, np.array([0, 1, -1, 3]), "label -1"
    yield "top1", scores, np.zeros(4), "labels are float64"
    yield (
        "top1",
        scores,
        np.zeros((4, 10), int),
        r"labels are int64 \[4, 10\], expected whole numbers, one for each of 4",
    )
    yield "top1", np.zeros((4, 3, 8, 8), np.float32), None, "needs an output of scores"
    yield "kl", np.zeros((4, 10), np.uint8), None, "kl: needs an output of scores"
    yield "mse", np.zeros((4, 10), np.uint8), None, "needs an output of floats, the model has uint8"
    yield "top5", np.zeros((4, 5), np.float32), None, "always 100 %"
    yield lambda outputs, labels: float("nan"), scores, None, "returned NaN"
    yield lambda outputs, labels: "x", scores, None, "ValueError: could not convert string"


@pytest.mark.parametrize(("metric", "outputs", "labels", "message"), list(wrong()))
def test_what_cannot_be_measured_is_one_sentence(metric: Any, outputs: Array, labels: Any, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught:
        measure(metric, [outputs], [outputs], labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shrunk", [1, 0.3])
@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_few_samples_tell_what_many_lose(metric: str, shrunk: float) -> None:
    """The likely drop of hundreds is near what tens of thousands show, and nearer than their own drop."""
    rng = np.random.default_rng(0)

    def sample(count: int) -> tuple[Array, Array, Array]:
        labels = rng.integers(0, 20, count)
        scores = rng.standard_normal((count, 20)) + 3 * np.eye(20)[labels]
        return scores, shrunk * (scores + 0.7 * rng.standard_normal(scores.shape)), labels

    def measured(case: tuple[Array, Array, Array]) -> tuple[float, float, float]:
        scores, noisy, labels = case
        before, after = open_metric(metric).start(), open_metric(metric).start()
        before.add([scores], [scores], Batch({}, labels))
        after.add([noisy], [scores], Batch({}, labels))
        assert isinstance(after, TopK)
        return before.value() - after.value(), *after.likely_drop()

    true, likely, _ = measured(sample(60_000))
    assert true > 1
    assert likely == pytest.approx(true, rel=0.2)
    few = np.array([measured(sample(300)) for _ in range(50)])
    assert few[:, 1].mean() == pytest.approx(true, rel=0.25)
    assert few[:, 1].std() < 0.85 * few[:, 0].std()
    assert few[:, 2].mean() == pytest.approx(few[:, 1].std(), rel=0.4)


def test_what_is_the_same_loses_nothing_and_nans_lose_all() -> None:
    scores = np.random.default_rng(0).standard_normal((50, 10))
    same, broken = TopK(1), TopK(1)
    same.add([scores], [scores], Batch({}, scores.argmax(1)))
    broken.add([scores * np.nan], [scores], Batch({}, scores.argmax(1)))
    assert same.likely_drop() == (0.0, 0.0)
    assert broken.likely_drop()[0] > 80


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(
        OnnxoptError,
        match="'accuracy'; there are cosine, kl, mse, next-token, perplexity, retrieval, top1, top5, and functions",
    ):
        open_metric("accuracy")


@pytest.mark.parametrize("name", METRICS)
def test_no_samples_are_no_measurement(name: str) -> None:
    with pytest.raises(OnnxoptError, match="no samples"):
        open_metric(name).start().value()


def test_probabilities_lose_what_their_logits_do() -> None:
    """Noise that is the same in all logits shows in probabilities of a half only; no model gains by it."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 2000)
    logits = rng.normal(size=(2000, 10)) + 3 * np.eye(10)[labels]
    noisy = logits + 0.5 * rng.normal(size=logits.shape)

    def drop(before: np.ndarray[Any, Any], after: np.ndarray[Any, Any]) -> float:
        score = TopK(1)
        score.add([after.astype(np.float32)], [before.astype(np.float32)], Batch({}, labels))
        return score.likely_drop()[0]

    assert drop(logits, noisy) > 0.5
    assert drop(softmax(logits, 1), softmax(noisy, 1)) == pytest.approx(drop(logits, noisy), abs=0.05)
