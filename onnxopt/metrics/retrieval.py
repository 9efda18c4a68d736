"""Nearest neighbours by embeddings."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.pooled import embeddings

_BLOCK = 1024
"""Samples whose similarities with all others are in memory at a time."""
_TIE = 1e-6
"""Similarities in the original that differ by less are those of equal samples."""


class Retrieval(Score):
    """Percentage of samples whose nearest neighbour among all samples, by the cosine, is still the original's.

    A sample is a query, the other samples are what it searches. The value is a mean over queries; its standard error is
    that of new queries in the same collection. A neighbour that the original finds equally near, such as a text that
    comes twice, counts as the same. The share falls with the number of samples, as neighbours lie closer together.

    The embeddings of all samples are kept in memory.
    """

    def __init__(self) -> None:
        self._got: list[Array] = []
        self._wanted: list[Array] = []
        self._hits: Array | None = None
        """Of all samples so far, once they are compared."""

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError without an output of embeddings."""
        got, wanted = embeddings(outputs, reference, batch, "retrieval")
        self._got.append(_directions(got))
        self._wanted.append(_directions(wanted))
        self._hits = None

    def value(self) -> float:
        """Percent. Raises OnnxoptError also for a single sample."""
        hits = self.per_sample()
        if at_least_one(len(hits)) < 2:
            raise OnnxoptError("retrieval: needs two samples or more, found 1, which has no neighbour")
        return float(hits.mean())

    def per_sample(self) -> Array:
        """See `Score`: 100 where the neighbour is the same, else 0."""
        if self._hits is None:
            self._hits = self._compared() if self._got else np.zeros(0, bool)
        return 100.0 * self._hits

    def _compared(self) -> Array:
        """Whether the neighbour is the same, ``[samples]``."""
        got, wanted = np.concatenate(self._got), np.concatenate(self._wanted)
        hits = np.zeros(len(got), bool)
        for start in range(0, len(got), _BLOCK):
            block = np.arange(start, min(start + _BLOCK, len(got)))
            rows = np.arange(len(block))
            found, before = got[block] @ got.T, wanted[block] @ wanted.T
            found[rows, block] = before[rows, block] = -np.inf  # not its own neighbour
            hits[block] = before[rows, found.argmax(1)] >= before.max(1) - _TIE
        return hits & got.any(1)


def _directions(vectors: Array) -> Array:
    """Vectors of length 1; zeros, which find nothing, for those that have no direction."""
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return np.where(np.isfinite(scaled).all(1, keepdims=True), scaled, 0.0).astype(np.float32)


METRICS = (Metric("retrieval", Retrieval, higher_is_better=True),)
