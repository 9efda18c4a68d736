"""Cosine of embeddings with the original's."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.pooled import embeddings


class Cosine(Score):
    """The mean over samples of the cosine between the model's embedding and the original's, in percent.

    It is 100 for the original, and falls by half the noise over signal, in power, of the embeddings' directions. Where
    an embedding is NaN or infinite and the original's is not, it is -100; where only one of them is zero, 0.
    """

    def __init__(self) -> None:
        self._cosines: list[Array] = []

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError without an output of embeddings."""
        got, wanted = embeddings(outputs, reference, batch, "cosine")
        same = ((got == wanted) | (np.isnan(got) & np.isnan(wanted))).all(1)
        with np.errstate(invalid="ignore", over="ignore"):
            lengths = np.linalg.norm(got, axis=1) * np.linalg.norm(wanted, axis=1)
            cosines = (got * wanted).sum(1) / np.where(lengths > 0, lengths, 1.0)
        finite = np.isfinite(got).all(1) & np.isfinite(cosines)
        self._cosines.append(np.where(same, 1.0, np.where(finite, np.clip(cosines, -1, 1), -1.0)))

    def value(self) -> float:
        """Percent."""
        cosines = self.per_sample()
        return float(cosines.sum()) / at_least_one(len(cosines))

    def per_sample(self) -> Array:
        """See `Score`."""
        return 100.0 * np.concatenate(self._cosines) if self._cosines else np.zeros(0)


METRICS = (Metric("cosine", Cosine, higher_is_better=True),)
