"""How well classes are told apart, counted batch by batch."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from onnxopt.data import Array
from onnxopt.measure.evaluation.intervals import Estimate, share
from onnxopt.metrics.class_scores import ranks

NO_ANSWER = -1
"""What stands for a class where a model's scores are NaN."""
_TOP = 5


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Of one class; shares are 0 to 1, and 0 where they would be 0 / 0."""

    index: int
    """The class, counted from 0 as the model's outputs are."""
    samples: int
    """Labelled so."""
    predicted: int
    """Samples that the model takes for it."""
    precision: float
    """Share of the predicted that are it."""
    recall: float
    """Share of its samples that are predicted."""
    f1: float
    """Harmonic mean of the two."""


@dataclass(frozen=True, slots=True)
class Classification:
    """A model's answers by the labels; shares are 0 to 1."""

    samples: int
    """With labels."""
    classes: int
    """That the model tells apart."""
    top1: Estimate
    top5: float | None
    """None for five classes and fewer."""
    precision: float
    """Macro average: the mean over `by_class`, each class counting alike; so the next two."""
    recall: float
    f1: float
    by_class: tuple[ClassScores, ...]
    """Classes that occur as a label or as an answer, in order."""
    confusion: tuple[tuple[int, int, int], ...]
    """(label, answer, samples) wherever there are samples, in order; an answer of -1 are scores of NaN."""
    unanswered: int
    """Samples whose scores are NaN; they count as wrong."""


def answers(scores: Array) -> Array:
    """[n] classes for scores [n, classes]: the highest, of equal ones the first; `NO_ANSWER` where one is NaN."""
    return np.where(np.isnan(scores).any(1), NO_ANSWER, scores.argmax(1))


class Counts:
    """Samples by label and answer; memory is bounded by the kinds of mistakes that are made."""

    def __init__(self) -> None:
        self._pairs: Counter[tuple[int, int]] = Counter()
        self._classes, self._top5 = 0, 0

    def add(self, scores: Array, found: Array, labels: Array) -> None:
        """Takes one batch.

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
        """Of all batches so far; None where there were none."""
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
