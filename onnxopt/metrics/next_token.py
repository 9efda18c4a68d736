"""Agreement on the next token."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch
from onnxopt.metrics.base import Metric, Outputs, Score, at_least_one
from onnxopt.metrics.next_tokens import MeanOverTokens, predictions

_NAME = "next-token"


class NextToken(Score):
    """Percentage of tokens after which a language model thinks the same next token likeliest as the original."""

    def __init__(self) -> None:
        self._agreeing = MeanOverTokens()

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError where the model is no language model."""
        asked = predictions(outputs, reference, batch, _NAME)
        got, wanted = outputs[asked.output], reference[asked.output]
        same = (got.argmax(2) == wanted.argmax(2)) & (np.isnan(got.max(2)) == np.isnan(wanted.max(2)))
        self._agreeing.sums += (100.0 * (same & asked.kept).sum(1)).tolist()
        self._agreeing.counts += asked.kept.sum(1).tolist()

    def value(self) -> float:
        """Percent."""
        at_least_one(sum(self._agreeing.counts))
        return self._agreeing.mean

    def per_sample(self) -> Array:
        """See `Score`."""
        return self._agreeing.mean + self._agreeing.pulls()


METRICS = (Metric(_NAME, NextToken, higher_is_better=True),)
