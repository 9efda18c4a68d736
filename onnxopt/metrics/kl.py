"""Kullback-Leibler divergence."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.class_scores import is_float, require_scores, rows

_LEAST_PROBABILITY = 1e-12
"""What a probability of 0 counts as, so that rounding one to 0 costs 28 nats and not infinitely many."""


class Divergence(Score):
    """Kullback-Leibler divergence of the class probabilities from the original's, KL(original || model), in nats.

    It is the mean over samples. Probabilities are the softmax of the scores; where the original's scores are already
    probabilities (no less than 0, sums of 1), they are taken as they are.
    """

    def __init__(self) -> None:
        self._divergences: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError without a float output of scores."""
        i = require_scores([x if is_float(x) else None for x in reference], "kl")
        wanted, got = (rows(x[i]).astype(np.float64) for x in (reference, outputs))
        if (wanted >= 0).all() and np.allclose(wanted.sum(1), 1, atol=1e-3):
            log_p, log_q = (np.log(np.maximum(x, _LEAST_PROBABILITY)) for x in (wanted, got))
        else:
            log_p, log_q = _log_softmax(wanted), _log_softmax(got)
        with np.errstate(invalid="ignore"):  # a class that a score of minus infinity rules out
            divergence = np.where(np.exp(log_p) > 0, np.exp(log_p) * (log_p - log_q), 0.0).sum(1)
        self._divergences.append(np.where(np.isnan(divergence), np.inf, divergence))

    def value(self) -> float:
        """Nats; 0 for outputs equal to the original's."""
        divergences = self.per_sample()
        return float(divergences.sum()) / at_least_one(len(divergences))

    def per_sample(self) -> Array:
        """See `Score`."""
        return np.concatenate(self._divergences) if self._divergences else np.zeros(0)


def _log_softmax(scores: Array) -> Array:
    shifted = scores - scores.max(1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))


METRICS = (Metric("kl", Divergence, higher_is_better=False),)
