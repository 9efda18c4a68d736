"""Compares models with the original model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnxruntime

from onnxopt.data import Array, Batch, Data
from onnxopt.metrics import Metric, Outputs
from onnxopt.metrics.output_error import output_error
from onnxopt.search.identity import first_difference

_FOLDS = 8
"""Folds of the data that are scored separately. The spread of their drops gives the standard error of the drop."""
_NO_MISTAKES = 99.5
"""Accuracy in percent from which on the model counts as making no mistakes."""
_KEPT = 2**28
"""Largest size of the original's outputs to keep in memory, in bytes. If there are more, the original runs again."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of a model with the original on data."""

    samples: int
    error: float
    """Noise over signal of the outputs, root mean square over the batches."""
    before: float | None
    """The metric of the original; None without a metric."""
    after: float | None
    drop: float | None
    """How much worse `after` is; see `Metric.drop`."""
    likely: float | None = None
    """The expected drop on samples like these; see `onnxopt.metrics.Score.likely_drop`."""
    uncertainty: float = 0.0
    """Standard error of the drop; 0 if unknown, as for user-defined metrics."""


class _Scores:
    """A metric over all batches, and over each fold."""

    def __init__(self, metric: Metric) -> None:
        self._whole = metric.start()
        self._folds = [metric.start() for _ in range(_FOLDS)] if metric.in_folds else []
        self._batches = 0

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        self._whole.add(outputs, reference, labels)
        if self._folds:
            self._folds[self._batches % _FOLDS].add(outputs, reference, labels)
        self._batches += 1

    def value(self) -> float:
        return self._whole.value()

    def folds(self) -> list[float]:
        return [fold.value() for fold in self._folds[: self._batches]]

    def likely_drop(self) -> tuple[float, float] | None:
        return self._whole.likely_drop()


class Runner(Protocol):
    """Anything that runs a model, such as a session."""

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        """Runs the model on named inputs and returns the named outputs."""


class Evaluator:
    """The original model and its outputs on data, for comparison with other models.

    Raises OnnxoptError if the metric does not fit the outputs or labels, and the runtime's error if the model does not
    run.
    """

    def __init__(self, session: onnxruntime.InferenceSession, data: Data, metric: Metric | None = None) -> None:
        self._session, self._data, self._metric = session, data, metric
        self._names = [value.name for value in session.get_outputs()]
        self._kept: list[list[Any]] | None = []
        size, self.samples = 0, 0
        self.labelled = False
        score = self._start()
        for batch in data:
            self.labelled |= batch.labels is not None
            outputs = session.run(self._names, batch.feeds)
            self.samples += batch.size
            if score:
                score.add(outputs, outputs, batch.labels)
            size += sum(array.nbytes for array in outputs if isinstance(array, np.ndarray))
            if self._kept is not None:
                self._kept.append(outputs)
            if size > _KEPT:
                self._kept = None
        self.before = score.value() if score else None
        self._before = score.folds() if score else []

    @property
    def names(self) -> list[str]:
        """Names of the outputs that are compared."""
        return list(self._names)

    @property
    def feeds(self) -> Mapping[str, Array]:
        """The first batch of the data."""
        return next(iter(self._data)).feeds

    @property
    def memorised(self) -> bool:
        """Whether the original makes almost no mistakes on labelled data, which suggests that it was trained on
        them."""
        return self.labelled and self._metric is not None and self._metric.is_accuracy and (
            self.before is not None and self.before >= _NO_MISTAKES)  # fmt: skip

    def compare(self, session: Runner) -> Comparison:
        """Compares a model with the same inputs and outputs on the same data."""
        score, powers = self._start(), []
        for batch, wanted in self._wanted():
            got = session.run(self._names, batch.feeds)
            powers.append(output_error(wanted, got) ** 2 * batch.size)
            if score:
                score.add(got, wanted, batch.labels)
        error = float(sum(powers) / max(1, self.samples)) ** 0.5
        if score is None or self._metric is None or self.before is None:
            return Comparison(self.samples, error, None, None, None)
        after = score.value()
        drops = [self._metric.drop(*pair) for pair in zip(self._before, score.folds(), strict=True)]
        uncertainty = float(np.std(drops, ddof=1) / len(drops) ** 0.5) if len(drops) > 1 else 0.0
        drop = self._metric.drop(self.before, after)
        likely, uncertainty = score.likely_drop() or (None, uncertainty)
        return Comparison(self.samples, error, self.before, after, drop, likely, uncertainty)

    def difference(self, session: Runner) -> str:
        """Name of the first output of a model that is not equal to the original's bit for bit; empty if all are."""
        found = (first_difference(self._names, wanted, session.run(self._names, batch.feeds))
                 for batch, wanted in self._wanted())  # fmt: skip
        return next(filter(None, found), "")

    def _start(self) -> _Scores | None:
        return _Scores(self._metric) if self._metric else None

    def _wanted(self) -> Iterator[tuple[Batch, list[Any]]]:
        if self._kept is not None:
            yield from zip(self._data, self._kept, strict=True)
        else:
            for batch in self._data:
                yield batch, self._session.run(self._names, batch.feeds)
