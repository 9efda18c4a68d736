"""Top-1 and top-5 accuracy."""

from __future__ import annotations

import numpy as np
import scipy

from onnxopt.data import Array
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.class_scores import class_labels, ranks, require_scores, rows

_SUM = 0.02
"""Probabilities sum to 1 within this tolerance, even rounded to 8 bits."""
_EXACT = 1e-9
"""Noise in margins, relative to them, that is mere rounding in the arithmetic."""


class TopK(Score):
    """Percentage of samples whose class is among the `k` highest scores.

    The class is the label; without labels it is what the original ranks first, so that the original scores 100.
    """

    def __init__(self, k: int) -> None:
        self._k, self._hits, self._samples = k, 0, 0
        self._margins: list[Array] = []
        self._before: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """See `Score`. Raises OnnxoptError without an output of scores, or where the labels are not its classes."""
        name = f"top{self._k}"
        i = require_scores(reference, name)
        scores = rows(outputs[i])
        if scores.shape[1] <= self._k:
            raise OnnxoptError(f"{name}: the model has only {scores.shape[1]} classes, so that is always 100 %; "
                               "choose another metric")  # fmt: skip
        wanted = rows(reference[i]).argmax(1) if labels is None else class_labels(labels, scores.shape, name)
        hits = ranks(scores, wanted) < self._k
        self._hits += int(hits.sum())
        self._samples += len(hits)
        self._margins.append(_margins(scores, wanted, self._k))
        self._before.append(_margins(rows(reference[i]), wanted, self._k))

    def value(self) -> float:
        """Percent."""
        return 100 * self._hits / at_least_one(self._samples)

    def likely_drop(self) -> tuple[float, float]:
        """The expected drop on samples like these and its standard error, in percentage points.

        Each sample is right with the probability that noise of the observed power leaves its margin above 0, so that a
        few samples reveal a drop that none of them shows. The noise is the residual of a linear fit of the margins
        after on the margins before: a model whose scores have all shrunk gives the same answers.
        """
        before, after = (np.concatenate(parts).astype(np.float64) for parts in (self._before, self._margins))
        with np.errstate(invalid="ignore"):
            spread, shared = float(before.var()), float(((before - before.mean()) * (after - after.mean())).mean())
            expected = after.mean() + (shared / spread if spread > 0 else 1.0) * (before - before.mean())
            noise = float((after - expected).std())
        if not np.isfinite(noise):
            return 100 - self.value(), 0.0
        exact = noise <= _EXACT * float(np.abs(after).max())
        right = (after > 0).astype(np.float64) if exact else scipy.special.ndtr(expected / noise)
        lost = 100 * ((before > 0) - right)
        return float(lost.mean()), float(lost.std() / np.sqrt(len(lost)))


def _margins(scores: Array, wanted: Array, k: int) -> Array:
    """By how much the score of class `wanted` exceeds the k-th best of the others, ``[n]``.

    Probabilities are taken as their logarithms: near 0 and 1 they hardly show noise.
    """
    others = scores.astype(np.float32)
    if others.size and others.min() >= 0 and np.allclose(others.sum(1), 1, atol=_SUM):
        others = np.log(np.maximum(others, np.finfo(np.float32).tiny))
    own = np.take_along_axis(others, wanted[:, None], 1)[:, 0]
    np.put_along_axis(others, wanted[:, None], -np.inf, 1)
    return np.asarray(own - np.partition(others, -k, 1)[:, -k])


METRICS = (  # their drop has an estimate of its own, which needs no folds
    Metric("top1", lambda: TopK(1), higher_is_better=True, is_accuracy=True, in_folds=False),
    Metric("top5", lambda: TopK(5), higher_is_better=True, is_accuracy=True, in_folds=False),
)
