"""Comparison with the original on synthetic inputs of several laws: what is found under the worst counts."""

from __future__ import annotations

from dataclasses import replace

import onnxruntime

from onnxopt.data import Data
from onnxopt.metrics import Metric
from onnxopt.search.evaluator import Comparison, Evaluator, Runner


class WorstLaw(Evaluator):
    """An evaluator for each law. `compare` gives the largest error and the largest drop of any."""

    def __init__(self, session: onnxruntime.InferenceSession, data: Data, metric: Metric | None = None) -> None:
        self._each = [Evaluator(session, law, metric) for law in data.by_law]
        self.samples = sum(one.samples for one in self._each)
        self.before = self._each[0].before
        self.labelled = False

    @property
    def memorised(self) -> bool:
        """See `Evaluator`: never, as synthetic inputs have no labels."""
        return False

    def compare(self, session: Runner) -> Comparison:
        """See `Evaluator`. A law under which no output can be measured says nothing."""
        found = [one.compare(session) for one in self._each]
        error = max((one.error for one in found if one.error is not None), default=found[0].error)
        worst = max(found, key=lambda one: one.drop if one.drop is not None else -float("inf"))
        return replace(worst, samples=self.samples, error=error)


def evaluator_of(session: onnxruntime.InferenceSession, data: Data, metric: Metric | None = None) -> Evaluator:
    """The evaluator for data of one kind, or of several laws."""
    return WorstLaw(session, data, metric) if data.laws else Evaluator(session, data, metric)
