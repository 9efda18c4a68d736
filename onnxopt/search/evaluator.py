"""Compares models with the original model."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import onnxruntime

from onnxopt.data import Array, Batch, Data
from onnxopt.metrics import Metric, Outputs
from onnxopt.metrics.observed import Observed
from onnxopt.metrics.output_error import agreement, output_error
from onnxopt.search.identity import first_difference

_FOLDS = 8
"""Folds of the data that are scored separately. The spread of their drops gives the standard error of the drop."""
_NO_MISTAKES = 99.5
"""Accuracy in percent from which on the model counts as making no mistakes."""
_KEPT = 2**28
"""Largest size of the original's outputs to keep in memory, in bytes. If there are more, the original runs again."""
_KEPT_INPUTS = 2**26
"""The same of the inputs. If there are more, they are read again for every comparison."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of a model with the original on data."""

    samples: int
    error: float | None
    """Noise over signal of the observed values, root mean square over the batches, or the share of labels that differ
    where that is more. None if no value shows any noise, because all are labels, or empty."""
    before: float | None
    """The metric of the original; None without a metric."""
    after: float | None
    drop: float | None
    """How much worse `after` is; see `Metric.drop`."""
    likely: float | None = None
    """The expected drop on samples like these; see `onnxopt.metrics.Score.likely_drop`."""
    uncertainty: float = 0.0
    """Standard error of the drop; 0 if unknown, as for user-defined metrics."""
    agreement: float | None = None
    """Share of the labels, truth values and texts in the outputs that are the same, 0 to 1; None if there are none."""

    @property
    def measured(self) -> bool:
        """Whether anything was compared."""
        return self.difference is not None

    @property
    def difference(self) -> float | None:
        """The error or, where only labels were compared, the share of them that differ; None if nothing was."""
        if self.error is not None or self.agreement is None:
            return self.error
        return 1 - self.agreement


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

    Arguments:
        session: the original, which has the hidden values of `observed` as outputs behind its own.
        observed: the values whose differences count; by default, all outputs.

    Raises OnnxoptError if the metric does not fit the outputs or labels, and the runtime's error if the model does not
    run.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        data: Data,
        metric: Metric | None = None,
        observed: Observed | None = None,
    ) -> None:
        self._session, self._data, self._metric = session, data, metric
        self._hidden = observed.hidden if observed else ()
        every = [value.name for value in session.get_outputs()]
        self._names = every[: len(every) - len(self._hidden)]
        self._observed = observed or Observed(tuple(self._names))
        self._labels = frozenset(self._observed.labels)
        self._kept: list[list[Any]] | None = []
        self._batches: list[Batch] | None = []
        size, of_inputs, self.samples = 0, 0, 0
        self.labelled, self.measurable = False, False
        """Whether the data has labels, and whether the observed values say anything on it."""
        score = self._start()
        for batch in data:
            self.labelled |= batch.labels is not None
            outputs = self._run(batch)
            self.samples += batch.size
            self.measurable = self.measurable or self._error(outputs, outputs) is not None
            if score:
                visible = self._visible(outputs)
                score.add(visible, visible, batch.labels)
            size += sum(array.nbytes for array in outputs if isinstance(array, np.ndarray))
            if self._kept is not None:
                self._kept.append(outputs)
            if size > _KEPT:
                self._kept = None
            of_inputs += sum(array.nbytes for array in batch.feeds.values())
            if of_inputs > _KEPT_INPUTS:
                self._batches = None
            if self._batches is not None:
                self._batches.append(_copy(batch))
        self.before = score.value() if score else None
        self._before = score.folds() if score else []

    @property
    def names(self) -> list[str]:
        """Names of the outputs that are compared."""
        return list(self._names)

    @property
    def feeds(self) -> Mapping[str, Array]:
        """The first batch of the data."""
        return next(iter(self._read())).feeds

    @property
    def memorised(self) -> bool:
        """Whether the original makes almost no mistakes on labelled data, which suggests that it was trained on
        them."""
        return self.labelled and self._metric is not None and self._metric.is_accuracy and (
            self.before is not None and self.before >= _NO_MISTAKES)  # fmt: skip

    @property
    def hidden(self) -> int:
        """How many of the observed values are not outputs."""
        return len(self._hidden)

    def compare(self, session: Runner, hidden: Sequence[str] = ()) -> Comparison:
        """Compares a model with the same inputs and outputs on the same data.

        Arguments:
            hidden: the outputs of `session` that are the hidden values; without them, only outputs are compared.
        """
        score, power, measured = self._start(), 0.0, 0
        shares, counted = list[float](), list[float]()
        for batch, wanted in self._wanted():
            got = session.run([*self._names, *hidden], batch.feeds)
            error = self._error(wanted, got)
            if error is not None:
                power, measured = power + error**2 * batch.size, measured + batch.size
            share, of_labels = self._agreement(wanted, got, self._names), self._agreement(wanted, got, self._labels)
            shares += [] if share is None else [share] * batch.size
            counted += [] if of_labels is None else [of_labels] * batch.size
            if score:
                score.add(self._visible(got), self._visible(wanted), batch.labels)
        error = None
        if measured:
            error = max((power / measured) ** 0.5, 1 - float(np.mean(counted)) if counted else 0.0)
        same = float(np.mean(shares)) if shares else None
        compared = Comparison(self.samples, error, None, None, None, agreement=same)
        if score is None or self._metric is None or self.before is None:
            return compared
        after = score.value()
        drops = [self._metric.drop(*pair) for pair in zip(self._before, score.folds(), strict=True)]
        uncertainty = float(np.std(drops, ddof=1) / len(drops) ** 0.5) if len(drops) > 1 else 0.0
        likely, uncertainty = score.likely_drop() or (None, uncertainty)
        return replace(
            compared, before=self.before, after=after, drop=self._metric.drop(self.before, after), likely=likely,
            uncertainty=uncertainty,
        )  # fmt: skip

    def _error(self, wanted: Sequence[Any], got: Sequence[Any]) -> float | None:
        """Error of the observed values that both models give. Selected rows count where their number is the same."""
        names = [*self._names, *self._hidden]
        given = {name: (a, b) for name, a, b in zip(names, wanted, got, strict=False)}
        values, selected = self._observed.values, self._observed.selected
        if self._hidden and len(got) == len(self._names):  # decisions are out of sight: what they made is what is left
            values, selected = tuple(self._names), frozenset(self._names)
        counted = {
            name: given[name] for name in values if name in given and (name not in selected or _alike(*given[name]))
        }
        axes = [self._observed.classes.get(name) for name in counted]
        return output_error([a for a, _ in counted.values()], [b for _, b in counted.values()], axes)

    def _agreement(self, wanted: Sequence[Any], got: Sequence[Any], outputs: Collection[str]) -> float | None:
        """Share of equal elements in some of the outputs."""
        if not outputs:
            return None
        pairs = [pair for name, *pair in zip(self._names, wanted, got, strict=False) if name in outputs]
        return agreement([a for a, _ in pairs], [b for _, b in pairs])

    def _visible(self, outputs: Sequence[Any]) -> list[Any]:
        return list(outputs[: len(self._names)])

    def _run(self, batch: Batch) -> list[Any]:
        return list(self._session.run([*self._names, *self._hidden], batch.feeds))

    def difference(self, session: Runner) -> str:
        """Name of the first output of a model that is not equal to the original's bit for bit; empty if all are."""
        found = (first_difference(self._names, self._visible(wanted), session.run(self._names, batch.feeds))
                 for batch, wanted in self._wanted())  # fmt: skip
        return next(filter(None, found), "")

    def _start(self) -> _Scores | None:
        return _Scores(self._metric) if self._metric else None

    def _wanted(self) -> Iterator[tuple[Batch, list[Any]]]:
        if self._kept is not None:
            yield from zip(self._read(), self._kept, strict=True)
        else:
            for batch in self._read():
                yield batch, self._run(batch)

    def _read(self) -> Iterable[Batch]:
        return self._data if self._batches is None else self._batches


def _alike(a: Any, b: Any) -> bool:
    return bool(np.shape(a) == np.shape(b))


def _copy(batch: Batch) -> Batch:
    """The batch with arrays of its own: a function that yields batches may fill the same ones again."""
    labels = None if batch.labels is None else batch.labels.copy()
    return replace(batch, feeds={name: array.copy() for name, array in batch.feeds.items()}, labels=labels)
