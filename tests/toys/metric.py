"""A metric: the largest difference from the original's outputs."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Batch
from onnxopt.metrics.base import Metric, Outputs, Score


class LargestDifference(Score):
    """Over all batches and all outputs."""

    def __init__(self) -> None:
        self._largest = 0.0

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`."""
        for got, wanted in zip(outputs, reference, strict=True):
            self._largest = max(self._largest, float(np.abs(got - wanted).max()))

    def value(self) -> float:
        """In the unit of the outputs; 0 for the original."""
        return self._largest


METRICS = (Metric("toy", LargestDifference, higher_is_better=False),)
