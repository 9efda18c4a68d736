"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.class_scores import class_labels, ranks, require_scores, rows
from onnxopt.metrics.lost_answers import Leaders, Margins, expected_loss, margins, resolution

_SUM = 0.02
"""Probabilities sum to 1 within this tolerance, even rounded to 8 bits."""


class TopK(Score):
    """Percentage of samples whose class is among the `k` highest scores.

    The class is the label; without labels it is what the original ranks first, so that the original scores 100.
    """

    def __init__(self, k: int) -> None:
        self._k = k
        self._hits: list[Array] = []
        self._leaders: list[Leaders] = []

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError without an output of scores, or where the labels are not its classes."""
        name = f"top{self._k}"
        i = require_scores(reference, name)
        scores, original = rows(outputs[i]), rows(reference[i])
        if scores.shape[1] <= self._k:
            raise OnnxoptError(f"{name}: the model has only {scores.shape[1]} classes, so that is always 100 %; "
                               "choose another metric")  # fmt: skip
        known = None if batch.labels is None else class_labels(batch.labels, scores.shape, name)
        self._hits.append(ranks(scores, original.argmax(1) if known is None else known) < self._k)
        self._leaders.append(Leaders.of(_logits(original), _logits(scores), known))

    def value(self) -> float:
        """Percent."""
        hits = self.per_sample()
        return float(hits.sum()) / at_least_one(len(hits))

    def per_sample(self) -> Array:
        """See `Score`: 100 for a hit, 0 for a miss."""
        return 100.0 * np.concatenate(self._hits) if self._hits else np.zeros(0)

    def likely_drop(self, noise: float = 1.0) -> tuple[float, float]:
        """See `Score`; in percentage points."""
        lost, error = expected_loss(Leaders.joined(self._leaders), self._k, noise)
        return 100 * lost, 100 * error

    def resolution(self, drop: float) -> float:
        """See `Score`."""
        return 100 * resolution(Leaders.joined(self._leaders), self._k, drop / 100)

    def margins(self) -> Margins:
        """See `Score`."""
        return margins(Leaders.joined(self._leaders), self._k)


def _logits(scores: Array) -> Array:
    """The scores, or their logarithms if they are probabilities, which near 0 and 1 hardly show noise."""
    others = scores.astype(np.float32)
    if others.size and others.min() >= 0 and np.allclose(others.sum(1), 1, atol=_SUM):
        return np.asarray(np.log(np.maximum(others, np.finfo(np.float32).tiny)))
    return others


METRICS = (
    Metric("top1", lambda: TopK(1), higher_is_better=True, is_accuracy=True),
    Metric("top5", lambda: TopK(5), higher_is_better=True, is_accuracy=True),
)
