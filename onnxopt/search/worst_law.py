"""Comparison with the original on synthetic inputs of several laws: what is found under the worst counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf

import onnxruntime

from onnxopt.data import Array, Data
from onnxopt.metrics import Metric
from onnxopt.metrics.observed import Observed
from onnxopt.pool import Pool
from onnxopt.search.answers import Runner
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.spec.promise import Promise


class WorstLaw(Evaluator):
    """An evaluator for each law. `compare` gives the worst of each figure."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        data: Data,
        metric: Metric | None = None,
        observed: Observed | None = None,
        counted: bool = False,
        pool: Pool | None = None,
    ) -> None:
        self._each = [Evaluator(session, law, metric, observed, counted, pool) for law in data.by_law]
        self.samples = sum(one.samples for one in self._each)
        self.before = self._each[0].before
        self.measurable = any(one.measurable for one in self._each)

    @property
    def names(self) -> list[str]:
        """See `Evaluator`."""
        return self._each[0].names

    @property
    def feeds(self) -> Mapping[str, Array]:
        """See `Evaluator`."""
        return self._each[0].feeds

    @property
    def hidden(self) -> int:
        """See `Evaluator`."""
        return self._each[0].hidden

    @property
    def memorised(self) -> bool:
        """See `Evaluator`: never, as synthetic inputs have no labels."""
        return False

    def compare(self, session: Runner, hidden: Sequence[str] = (), pool: Pool | None = None) -> Comparison:
        """See `Evaluator`. A law under which no output can be measured says nothing."""
        found = [one.compare(session, hidden, pool) for one in self._each]
        error = max((one.error for one in found if one.error is not None), default=None)
        agreement = min((one.agreement for one in found if one.agreement is not None), default=None)
        rows = min((one.rows for one in found if one.rows is not None), default=None)
        worst = max(found, key=_drop)
        return replace(worst, samples=self.samples, error=error, agreement=agreement, rows=rows)

    def outlook(self, promise: Promise) -> str:
        """See `Evaluator`: what is told under the first law."""
        return self._each[0].outlook(promise)

    def difference(self, session: Runner) -> str:
        """See `Evaluator`."""
        return next(filter(None, (one.difference(session) for one in self._each)), "")


def _drop(found: Comparison) -> float:
    """The drop to expect, with a standard error on top."""
    expected = found.drop if found.likely is None else found.likely
    return -inf if expected is None else expected + found.uncertainty


def evaluator_of(
    session: onnxruntime.InferenceSession,
    data: Data,
    metric: Metric | None = None,
    observed: Observed | None = None,
    counted: bool = False,
    pool: Pool | None = None,
) -> Evaluator:
    """The evaluator for data of one kind, or of several laws. Arguments are those of `Evaluator`."""
    kind = WorstLaw if data.laws else Evaluator
    return kind(session, data, metric, observed, counted, pool)
