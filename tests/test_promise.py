"""What samples say of a drop: the rule of the search and of the check, and what it rests on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from builders import mlp
from hypothesis import given
from hypothesis import strategies as st

import onnxopt
from onnxopt import Contract, Missed, OnnxoptError
from onnxopt.data import Batch, Data, Pending, marked, quiet_session, split
from onnxopt.metrics import open_metric
from onnxopt.metrics.lost_answers import Leaders, resolution
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.scores import Scores
from onnxopt.search.slope import Candidate, Trial
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.promise import Promise

Array = np.ndarray[Any, Any]

numbers = st.floats(-5, 5)
errors = st.floats(0, 3)
trials = st.builds(Trial, st.just(1.0), st.just(1), st.none(), numbers, errors, st.none() | numbers, errors)
promises = st.builds(Promise, st.floats(0.01, 5), st.floats(0.5, 0.999))


@given(promises, trials)
def test_what_is_safe_has_not_failed(promise: Promise, trial: Trial) -> None:
    """So the check of a finished file agrees with the search that kept it."""
    assert not (promise.safe(trial) and promise.failed(trial))
    surer = Promise(promise.allowed, (1 + promise.confidence) / 2)
    assert promise.safe(trial) or not surer.safe(trial)
    assert promise.failed(trial) or not surer.failed(trial)


def test_a_chance_flip_is_no_loss_and_a_loss_is_one() -> None:
    """One of 96 samples flipped: 1.04 points, where 1 is allowed and margins say 0.48 +- 0.24."""
    promise = Promise(1.0, 0.9)
    flipped = Trial(1.0, 1, None, 100 / 96, 0.24, 0.48, 100 / 96)
    assert promise.safe(flipped)
    assert not promise.failed(flipped)
    assert promise.failed(Trial(1.0, 1, None, 10.0, 0.24, 0.48, 3.0)), "counted, and far beyond chance"
    assert promise.failed(Trial(1.0, 1, None, 0.0, 0.24, 1.4, 0.0))
    assert not promise.safe(Trial(1.0, 1, None, math.nan))
    assert promise.failed(Trial(1.0, 1, None, math.nan))


def test_where_no_drop_is_allowed_the_counted_one_decides() -> None:
    promise = Promise(0.0, 0.9)
    assert promise.safe(Trial(1.0, 1, None, 0.0, 0.2, 0.3, 0.1))
    assert promise.failed(Trial(1.0, 1, None, 0.01, 0.2, 0.0, 0.1))


def test_the_outlook_says_what_would_be_enough() -> None:
    few = Promise(0.3, 0.9).outlook(500, 0.2)
    assert few == "500 samples tell a drop of 0.3 to +-0.26: the file will be cautious; 4,100 would be enough"
    assert Promise(0.3, 0.9).outlook(5000, 0.05) == "5,000 samples tell a drop of 0.3 to +-0.064"


def scored(count: int, noise: float, seed: int = 0) -> tuple[Array, Array, Array]:
    """Scores of ten classes, the same with noise, and labels that softmax says."""
    rng = np.random.default_rng(seed)
    before = 2.5 * rng.standard_normal((count, 10))
    labels = (before + rng.gumbel(size=before.shape)).argmax(1)
    return before, before + noise * rng.standard_normal(before.shape), labels


@pytest.mark.parametrize("known", [True, False])
def test_what_is_expected_is_what_many_lose(known: bool) -> None:
    """Scores that are known by heart, or without labels, likewise."""
    before, after, labels = scored(40_000, 0.5)
    first, second = open_metric("top1").start(), open_metric("top1").start()
    first.add([before], [before], Batch({}, labels if known else None))
    second.add([after], [before], Batch({}, labels if known else None))
    found = second.likely_drop()
    assert found is not None
    assert found[0] == pytest.approx(first.value() - second.value(), rel=0.1)


def test_fewer_samples_tell_less() -> None:
    before, after, labels = scored(4000, 0.5)
    leaders = Leaders.of(before, after, labels)
    few = resolution(leaders.first(250), 1, 0.01)
    assert few == pytest.approx(4 * resolution(leaders, 1, 0.01), rel=0.5)
    assert 0.001 < few < 0.01


def stream(sizes: list[int]) -> Data:
    """Batches of such sizes; each sample is its number."""

    def pending() -> Iterator[Pending]:
        start = 0
        for size in sizes:
            x = np.arange(start, start + size, dtype=np.float32)[:, None]
            yield Pending(size, lambda x=x: Batch({"x": x}))
            start += size

    return Data("numbers", pending, lambda: "digest")


def test_samples_of_the_calibration_are_marked() -> None:
    data = stream([5] * 9)
    calibrated = {x for batch in split(data, 0.25)[0].take(20) for x in batch.feeds["x"].ravel()}
    seen = {x for batch in marked(data, 0.25, 20) if batch.seen for x in batch.feeds["x"].ravel()}
    assert seen == calibrated
    assert marked(data, 0.25, 20).count() == 45


class Noisy:
    """A model whose noise is the larger on samples from `held` on."""

    def __init__(self, held: int, factor: float) -> None:
        self._session, self._held, self._factor = quiet_session(made().SerializeToString()), held, factor

    def run(self, names: Any, feeds: dict[str, Array]) -> list[Array]:
        (y,) = self._session.run(None, feeds)
        noise = np.random.default_rng(int(feeds["x"].sum())).standard_normal(y.shape).astype(np.float32)
        return [y + 0.1 * y.std() * noise * (self._factor if feeds["x"][0, 0] >= self._held else 1.0)]


def made() -> onnx.ModelProto:
    return mlp(1)


@pytest.mark.parametrize("metric", ["top1", "mse"])
def test_the_noise_of_new_samples_counts(metric: str) -> None:
    """Those of the calibration show too little of it."""
    sizes = [10] * 40
    plain, known = stream(sizes), marked(stream(sizes), 0.25, 300)
    held = {i for i, batch in enumerate(known) if not batch.seen}
    assert 8 < len(held) < 12

    class Overfitted(Noisy):
        def run(self, names: Any, feeds: dict[str, Array]) -> list[Array]:
            self._held = 0 if int(feeds["x"][0, 0]) // 10 in held else 10**9
            return super().run(names, feeds)

    session = quiet_session(made().SerializeToString())
    drops = []
    for data in (plain, known):
        found = Evaluator(session, data, open_metric(metric)).compare(Overfitted(0, 3.0))
        drops.append(found.drop if found.likely is None else found.likely)
    assert drops[1] > 1.2 * drops[0] > 0


def test_a_metric_that_is_a_mean_has_the_error_of_its_differences() -> None:
    rng = np.random.default_rng(0)
    outputs, labels = rng.standard_normal((320, 1)).astype(np.float32), np.zeros(320)
    worse = outputs + 0.1 * rng.standard_normal(outputs.shape).astype(np.float32)

    def spread(function: Callable[..., Any]) -> tuple[float, float]:
        metric = open_metric(function)
        first, second = Scores(metric), Scores(metric)
        for i in range(0, 320, 8):
            first.add([outputs[i : i + 8]], [outputs[i : i + 8]], Batch({}, labels[i : i + 8]))
            second.add([worse[i : i + 8]], [outputs[i : i + 8]], Batch({}, labels[i : i + 8]))
        found = first.drop_to(second, 1.0)
        return found.drop, found.spread

    each, mean = spread(lambda o, y: o[0][:, 0]), spread(lambda o, y: o[0].mean())
    assert each[0] == pytest.approx(mean[0], rel=1e-3)
    assert each[1] == pytest.approx(float((worse - outputs).std()) / 320**0.5, rel=0.02)
    assert mean[1] == pytest.approx(each[1], rel=0.6), "the jackknife over eight folds"


class Subject:
    """A model that drops the less the finer the slope, in files of 5000 bytes, and with 8 bits by `simple` in 3000."""

    name, bytes_before, sites = "m.onnx", 10_000, ()

    def __init__(self, simple: float) -> None:
        self._simple = simple

    def progress(self, what: str, share: float) -> None:
        """Tells nobody."""

    def candidates(self) -> list[Candidate]:
        return [Candidate("w", 1000, 1e-3)]

    def plan(self, slope: float, overrides: Overrides) -> Plan:
        return Plan("sha", {"w": Step("feedback", (("slope", slope),))})

    def in_eight_bits(self, plan: Plan) -> Plan:
        return Plan("sha", {"w": Step("feedback", (("slope", 1e-18), ("max_bits", 8)))})

    def try_plan(self, plan: Plan, evaluator: object, advance: object) -> tuple[int, Comparison | None]:
        given = dict(plan.steps["w"].args)
        drop = self._simple if "max_bits" in given else 1e6 * float(given["slope"])
        found = Comparison(100, 0.1, 90.0, 90.0 - drop, drop, drop)
        return 3000 if "max_bits" in given else 5000, None if evaluator is None else found


@pytest.mark.parametrize(("simple", "size"), [(0.2, 3000), (0.4, 5000)])
def test_eight_bits_are_kept_where_they_are_smaller_and_safe(simple: float, size: int) -> None:
    evaluator = SimpleNamespace(measurable=True, outlook=lambda promise: "")
    search = ContractSearch(Overrides(), None, SimpleNamespace(validation=evaluator))  # type: ignore[arg-type]
    found = search.run(Subject(simple), Contract(max_drop=0.3))  # type: ignore[arg-type]
    assert found.met
    assert found.trial.size == size
    assert ("max_bits" in dict(found.plan.steps["w"].args)) == (size == 3000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(mlp(32), tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def labelled(source: Path, name: str, sure: bool) -> Path:
    """Inputs with the model's own answers: those with the smallest leads, or with others."""
    x = np.random.default_rng(0).standard_normal((8000, 32)).astype(np.float32)
    (scores,) = onnxopt.load(source).run(None, {"x": x})
    ordered = np.sort(scores, 1)
    order = np.argsort(ordered[:, -1] - ordered[:, -2])
    chosen = order[-600:] if sure else order[:600]
    np.savez(source.with_name(name), x=x[chosen], labels=scores[chosen].argmax(1))
    return source.with_name(name)


def test_more_confidence_costs_bytes(source: Path, tmp_path: Path) -> None:
    sizes = []
    for confidence in (0.5, 0.99):
        contract = Contract(max_drop=3.0, confidence=confidence)
        result = onnxopt.optimize(source, tmp_path / "s.onnx", contract, labelled(source, "x.npz", sure=True))
        assert result.promised is not None
        assert result.promised.low <= result.promised.expected <= result.promised.high <= 3.0
        assert result.promised.outlook.startswith("600 samples tell a drop of 3 to +-")
        sizes.append(result.bytes_after)
    assert sizes[0] < sizes[1]


def test_what_other_samples_contradict_is_refused(source: Path, tmp_path: Path) -> None:
    data, evaluation = labelled(source, "sure.npz", sure=True), labelled(source, "unsure.npz", sure=False)
    with pytest.raises(Missed, match=r"is missed on .*unsure"):
        onnxopt.optimize(source, tmp_path / "s.onnx", Contract(max_drop=1.0), data, evaluation=evaluation)
    assert not (tmp_path / "s.onnx").exists()


@pytest.mark.parametrize("confidence", [0.4, 1.0, math.nan])
def test_a_confidence_that_cannot_be_is_one_sentence(confidence: float) -> None:
    with pytest.raises(OnnxoptError, match=r"--confidence is .*, expected at least 0.5 and less than 1"):
        Contract(max_drop=1.0, confidence=confidence).check()
