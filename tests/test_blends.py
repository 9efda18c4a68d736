"""What new samples lose is told by blends of samples that the model knows by heart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from builders import mlp

from onnxopt.data import Batch, Data, Pending, quiet_session
from onnxopt.metrics import open_metric
from onnxopt.search.blends import SHARE, blended
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.scores import Scores

Array = np.ndarray[Any, Any]

X = 3 * np.random.default_rng(0).standard_normal((256, 64)).astype(np.float32)


class Noisy:
    """The model with noise in its outputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._session = quiet_session(model.SerializeToString())

    def run(self, names: Sequence[str], feeds: Any) -> list[Array]:
        (y,) = self._session.run(list(names), feeds)
        return [y + 0.3 * np.sin(1e4 * y)]


def compared(labels: Array) -> tuple[Comparison, list[Batch]]:
    batches = [Batch({"x": X[i : i + 32]}, labels[i : i + 32]) for i in range(0, len(X), 32)]

    def pending() -> Iterator[Pending]:
        return (Pending(batch.size, lambda batch=batch: batch) for batch in batches)  # type: ignore[misc]

    model = mlp()
    evaluator = Evaluator(quiet_session(model.SerializeToString()), Data("x", pending, str), open_metric("top1"))
    return evaluator.compare(Noisy(model)), batches


def expected(batches: list[Batch]) -> float | None:
    """The drop that the metric expects on these samples."""
    before, after, model = Scores(open_metric("top1")), Scores(open_metric("top1")), mlp()
    session = quiet_session(model.SerializeToString())
    for batch in batches:
        wanted = session.run(["y"], batch.feeds)
        before.add(wanted, wanted, batch)
        after.add(Noisy(model).run(["y"], batch.feeds), wanted, batch)
    return before.drop_to(after, 1.0).likely


def test_known_samples_are_blended_and_others_are_not() -> None:
    answers = quiet_session(mlp().SerializeToString()).run(["y"], {"x": X})[0].argmax(1)
    found, batches = compared(answers)
    assert found.before == 100
    assert found.likely == pytest.approx(expected([one for one in map(blended, batches) if one]))
    answers[::10] = (answers[::10] + 1) % 10
    found, batches = compared(answers)
    assert found.before == pytest.approx(90, abs=1)
    assert found.likely == pytest.approx(expected(batches))


def test_a_blend_is_mostly_the_sample() -> None:
    batch = Batch({"x": X[:4]}, np.arange(4))
    mixed = blended(batch)
    assert mixed
    np.testing.assert_allclose(mixed.feeds["x"], (1 - SHARE) * X[:4] + SHARE * X[[3, 0, 1, 2]], rtol=1e-6)
    assert mixed.feeds["x"].dtype == np.float32
    assert mixed.labels is batch.labels


@pytest.mark.parametrize(
    "feeds", [{"x": X[:1]}, {"ids": np.arange(4)}, {"x": X[:4], "rate": np.float32(1)}], ids=["one", "ids", "constant"]
)
def test_what_has_no_neighbour_is_not_blended(feeds: dict[str, Array]) -> None:
    assert blended(Batch(feeds, samples=len(next(iter(feeds.values()))))) is None
