"""Classification metrics, accumulated batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from onnxopt.data import Array
from onnxopt.measure.evaluation.intervals import Estimate, share
from onnxopt.metrics.class_scores import ranks

NO_ANSWER = -1
"""The predicted class if a model's scores are NaN."""
_TOP = 5


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Metrics of one class; shares are 0 to 1, and 0 where they would be 0 / 0."""

    index: int
    """The class: its index in the model's outputs."""
    samples: int
    """Samples with this label."""
    predicted: int
    """Samples with this prediction."""
    precision: float
    """Share of these predictions that are correct."""
    recall: float
    """Share of the samples of this class that are predicted."""
    f1: float
    """Harmonic mean of precision and recall."""


@dataclass(frozen=True, slots=True)
class Classification:
    """A model's predictions against the labels; shares are 0 to 1."""

    samples: int
    """Samples with labels."""
    classes: int
    """Number of classes of the model."""
    top1: Estimate
    top5: float | None
    """None for five or fewer classes."""
    precision: float
    """Macro average, the unweighted mean over `by_class`; likewise the next two."""
    recall: float
    f1: float
    by_class: tuple[ClassScores, ...]
    """Classes that occur as a label or a prediction, in order."""
    confusion: tuple[tuple[int, int, int], ...]
    """(label, prediction, samples) for all pairs that occur, in order; the prediction -1 means scores of NaN."""
    unanswered: int
    """Samples whose scores are NaN; they count as wrong."""


def answers(scores: Array) -> Array:
    """[n] classes for scores [n, classes]: the first of the highest scores; `NO_ANSWER` if one is NaN."""
    return np.where(np.isnan(scores).any(1), NO_ANSWER, scores.argmax(1))


class Counts:
    """Counts of samples by label and prediction; memory grows with the pairs that occur."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._classes, self._top5 = 0, 0

    def add(self, scores: Array, found: Array, labels: Array) -> None:
        """Adds one batch.

        Arguments:
            scores: [n, classes]
            found: [n], their `answers`
            labels: [n], 0 to classes - 1
        """
        self._classes = scores.shape[1]
        self._pairs.update(zip(labels.tolist(), found.tolist(), strict=True))
        if self._classes > _TOP:
            self._top5 += int((ranks(scores, labels) < _TOP).sum())

    def result(self) -> Classification | None:
        """The metrics of all batches so far; None without batches."""
        if not self._pairs:
            return None
        samples, predicted = Counter[int](), Counter[int]()
        for (label, answer), count in self._pairs.items():
            samples[label] += count
            predicted[answer] += count
        unanswered = predicted.pop(NO_ANSWER, 0)
        by_class = tuple(
            self._of_class(index, samples[index], predicted[index]) for index in sorted(samples.keys() | predicted)
        )
        total = samples.total()
        precision, recall, f1 = np.mean([(c.precision, c.recall, c.f1) for c in by_class], 0).tolist()
        return Classification(
            samples=total,
            classes=self._classes,
            top1=share(sum(self._pairs[c.index, c.index] for c in by_class), total),
            top5=self._top5 / total if self._classes > _TOP else None,
            precision=precision,
            recall=recall,
            f1=f1,
            by_class=by_class,
            confusion=tuple((*pair, count) for pair, count in sorted(self._pairs.items())),
            unanswered=unanswered,
        )

    def _of_class(self, index: int, samples: int, predicted: int) -> ClassScores:
        right = self._pairs[index, index]
        precision, recall = right / max(1, predicted), right / max(1, samples)
        return ClassScores(index, samples, predicted, precision, recall, 2 * right / (samples + predicted))
