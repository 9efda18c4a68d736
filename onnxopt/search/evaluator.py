"""Compares models with the original model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime

from onnxopt.data import Array, Batch, Data
from onnxopt.metrics import Metric
from onnxopt.metrics.lost_answers import Margins
from onnxopt.metrics.observed import Observed
from onnxopt.metrics.output_error import agreement, output_error
from onnxopt.pool import Pool, Threads
from onnxopt.search.answers import Change, Question, Runner, parts, takes_parts, unchanged
from onnxopt.search.blends import Blends, blended
from onnxopt.search.identity import first_difference
from onnxopt.search.kept import Kept
from onnxopt.search.scores import Drop, Scores
from onnxopt.spec.promise import Promise

KEPT_INPUTS = 2**26
"""Largest size of the inputs to keep in memory, in bytes. If there are more, they are read again for every
comparison."""


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
    """The expected drop on new samples; see `onnxopt.metrics.Score.likely_drop`. None if only `drop` was measured."""
    uncertainty: float = 0.0
    """Standard error of the expected drop."""
    spread: float = 0.0
    """Standard error of `drop` as it was counted."""
    agreement: float | None = None
    """Share of the labels, truth values and texts in the outputs that are the same, 0 to 1; None if there are none."""
    rows: float | None = None
    """Share of the samples, 0 to 1, whose outputs have as many rows as the original's, where decisions select the rows;
    None if they select none."""
    margins: Margins | None = None
    """How far the samples are from what noise costs; None where the metric does not say."""

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


class Evaluator:
    """The original model and its outputs on data, for comparison with other models.

    Arguments:
        session: the original, which has the hidden values of `observed` as outputs behind its own.
        observed: the values whose differences count; by default, all outputs.
        counted: whether a drop is expected as it is counted. Else the outputs are taken to differ by noise, and it is
            expected from that.
        pool: where the original runs.

    Raises OnnxoptError if the metric does not fit the outputs or labels, and the runtime's error if the model does not
    run.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        data: Data,
        metric: Metric | None = None,
        observed: Observed | None = None,
        counted: bool = False,
        pool: Pool | None = None,
    ) -> None:
        self._session, self._data, self._metric, self._counted = session, data, metric, counted
        self._hidden = observed.hidden if observed else ()
        self._in_parts = not self._hidden and takes_parts(session)
        every = [value.name for value in session.get_outputs()]
        self._names = every[: len(every) - len(self._hidden)]
        self._observed = observed or Observed(tuple(self._names))
        self._labels = frozenset(self._observed.labels)
        self._kept = Kept()
        self._batches: list[Batch] | None = []
        of_inputs, self.samples = 0, 0
        self.measurable = False
        """Whether the observed values say anything on the data."""
        score = self._start()
        run = self._asked(session, [*self._names, *self._hidden], pool)
        for batch in data:
            outputs = run(batch)
            self.samples += batch.size
            self.measurable = self.measurable or self._error(outputs, outputs) is not None
            if score:
                visible = self._visible(outputs)
                score.add(visible, visible, batch)
            self._kept.add(outputs)
            of_inputs += sum(array.nbytes for array in batch.feeds.values())
            if of_inputs > KEPT_INPUTS:
                self._batches = None
            if self._batches is not None:
                self._batches.append(_copy(batch))
        self.before = score.value() if score else None
        self._before = score
        self._blends = (
            Blends(self._asked(session, self._names, pool, blended), metric, self._read())
            if metric and self.memorised
            else None
        )
        self._outlooks: dict[Promise, str] = {}

    @property
    def names(self) -> list[str]:
        """Names of the outputs that are compared."""
        return list(self._names)

    @property
    def feeds(self) -> Mapping[str, Array]:
        """The first batch of the data; of a large one, a part if the model takes it."""
        return next(parts(next(iter(self._read())), self._in_parts)).feeds

    @property
    def memorised(self) -> bool:
        """Whether the original makes almost no mistakes on labelled data, which suggests that it was trained on
        them."""
        return self._before is not None and self._before.by_heart

    @property
    def hidden(self) -> int:
        """How many of the observed values are not outputs."""
        return len(self._hidden)

    @cached_property
    def _compared(self) -> dict[str, Comparison]:
        """What is known of files, by digest."""
        return {}

    def compare_file(self, digest: str, session: Runner, pool: Pool | None = None) -> Comparison:
        """`compare`, once for a file that is always loaded in the same way, unless another machine has run it.

        Arguments:
            digest: of the file and of what runs it.
        """
        if digest in self._compared:
            return self._compared[digest]
        found = self.compare(session, pool=pool)
        if pool is None or pool.here:
            self._compared[digest] = found
        return found

    def compare(self, session: Runner, hidden: Sequence[str] = (), pool: Pool | None = None) -> Comparison:
        """Compares a model with the same inputs and outputs on the same data.

        Arguments:
            hidden: the outputs of `session` that are the hidden values; without them, only outputs are compared.
            pool: where the model runs; by default, here.
        """
        score, noise = self._start(), _Noise()
        shares, counted, rows = list[float](), list[float](), list[float]()
        run = self._asked(session, [*self._names, *hidden], pool)
        for batch, wanted in self._wanted():
            got = run(batch)
            noise.add(self._error(wanted, got), batch)
            share, of_labels = self._agreement(wanted, got, self._names), self._agreement(wanted, got, self._labels)
            shares += [] if share is None else [share] * batch.size
            counted += [] if of_labels is None else [of_labels] * batch.size
            rows += [float(as_many)] * batch.size if (as_many := self._as_many_rows(wanted, got)) is not None else []
            if score:
                score.add(self._visible(got), self._visible(wanted), batch)
        error = noise.error()
        if error is not None and counted:
            error = max(error, 1 - float(np.mean(counted)))
        same, as_many_rows = (float(np.mean(of)) if of else None for of in (shares, rows))
        compared = Comparison(self.samples, error, None, None, None, agreement=same, rows=as_many_rows)
        if score is None or self._before is None:
            return compared
        found = self._expected(self._before.drop_to(score, noise.of_new_samples()))
        if self._blends:
            run = self._asked(session, self._names, pool, blended)
            mixed = self._blends.drop_to(run, self._read(), noise.of_new_samples())
            mixed = self._expected(mixed)
            found = replace(found, likely=mixed.likely, uncertainty=mixed.uncertainty)
        return replace(
            compared, before=self.before, after=score.value(), drop=found.drop, likely=found.likely,
            uncertainty=found.uncertainty, spread=found.spread, margins=found.margins,
        )  # fmt: skip

    def _expected(self, found: Drop) -> Drop:
        return replace(found, likely=max(found.drop, 0.0), uncertainty=found.spread) if self._counted else found

    def outlook(self, promise: Promise) -> str:
        """What these samples can tell of the drop that a contract allows; empty where that is not known before."""
        if self._before is None or not promise.allowed:
            return ""
        if promise not in self._outlooks:
            error = (self._blends or self._before).resolution(promise.allowed)
            self._outlooks[promise] = "" if error is None else promise.outlook(self.samples, error)
        return self._outlooks[promise]

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

    def _as_many_rows(self, wanted: Sequence[Any], got: Sequence[Any]) -> bool | None:
        """Whether the outputs whose rows a decision selects have as many; None if there are none."""
        pairs = zip(self._names, wanted, got, strict=False)
        alike = [_alike(a, b) for name, a, b in pairs if name in self._observed.selected]
        return all(alike) if alike else None

    def _visible(self, outputs: Sequence[Any]) -> list[Any]:
        return list(outputs[: len(self._names)])

    def _asked(
        self, session: Runner, names: Sequence[str], pool: Pool | None, change: Change = unchanged
    ) -> Callable[[Batch], list[Any]]:
        """Gives the outputs of a model on each batch in turn."""
        return Question(session, names, self._data, change, self._in_parts).asked(pool or Threads())

    def difference(self, session: Runner) -> str:
        """Name of the first output of a model that is not equal to the original's bit for bit; empty if all are."""
        run = self._asked(session, self._names, None)
        found = (first_difference(self._names, self._visible(wanted), run(batch)) for batch, wanted in self._wanted())
        return next(filter(None, found), "")

    def _start(self) -> Scores | None:
        return Scores(self._metric) if self._metric else None

    def _wanted(self) -> Iterator[tuple[Batch, list[Any]]]:
        if self._kept:
            yield from zip(self._read(), self._kept, strict=True)
        else:
            run = self._asked(self._session, [*self._names, *self._hidden], None)
            for batch in self._read():
                yield batch, run(batch)

    def _read(self) -> Iterable[Batch]:
        return self._data if self._batches is None else self._batches


class _Noise:
    """Power of the noise over the signal, on the samples that statistics were measured on and on others."""

    def __init__(self) -> None:
        self._power: dict[bool, float] = {True: 0.0, False: 0.0}
        self._samples: dict[bool, int] = {True: 0, False: 0}

    def add(self, error: float | None, batch: Batch) -> None:
        if error is not None:
            self._power[batch.seen] += error**2 * batch.size
            self._samples[batch.seen] += batch.size

    def error(self) -> float | None:
        """Root mean square over all samples; None if none shows any."""
        samples = sum(self._samples.values())
        return (sum(self._power.values()) / samples) ** 0.5 if samples else None

    def of_new_samples(self) -> float:
        """Factor by which outputs change more on samples that statistics were not measured on; at least 1."""
        error = self.error()
        if not error or not self._samples[False] or not np.isfinite(error):
            return 1.0
        return max(1.0, float((self._power[False] / self._samples[False]) ** 0.5) / error)


def _alike(a: Any, b: Any) -> bool:
    return bool(np.shape(a) == np.shape(b))


def _copy(batch: Batch) -> Batch:
    """The batch with arrays of its own: a function that yields batches may fill the same ones again."""
    labels = None if batch.labels is None else batch.labels.copy()
    return replace(batch, feeds={name: array.copy() for name, array in batch.feeds.items()}, labels=labels)
