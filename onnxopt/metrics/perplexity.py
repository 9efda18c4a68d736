"""Perplexity of language models."""

from __future__ import annotations

import numpy as np
import scipy

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Metric, Outputs, Score
from onnxopt.metrics.next_tokens import MeanOverTokens, predictions


class Perplexity(Score):
    """The exponential of the mean over tokens of the surprise (negative log-likelihood) at the next token of the text.

    The text itself says which token is next, so no labels are needed. It is for causal models: one that sees the next
    token has no surprise.
    """

    def __init__(self) -> None:
        self._surprise = MeanOverTokens()

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score`. Raises OnnxoptError where the model is no language model."""
        asked = predictions(outputs, reference, batch, "perplexity")
        for scores, ids, kept in zip(outputs[asked.output], asked.ids, asked.kept, strict=True):
            at = np.flatnonzero(kept[:-1] & kept[1:])  # one sample at a time: vocabularies are large
            chosen = scores[at].astype(np.float64)
            with np.errstate(invalid="ignore"):
                surprise = scipy.special.logsumexp(chosen, axis=1) - chosen[np.arange(len(at)), ids[at + 1]]
            total = float(surprise.sum())
            self._surprise.sums.append(float("inf") if np.isnan(total) else total)
            self._surprise.counts.append(len(at))

    def value(self) -> float:
        """At least 1, lower being better. Raises OnnxoptError also where no text has two tokens."""
        if not self._surprise.sums:
            raise OnnxoptError("there are no samples to measure on")
        if not sum(self._surprise.counts):
            raise OnnxoptError("perplexity: no text has two tokens, so none has a next one; give longer texts")
        return self._value

    def per_sample(self) -> Array:
        """See `Score`."""
        with np.errstate(invalid="ignore"):  # it may be infinite
            return np.asarray(self._value * (1 + self._surprise.pulls()))

    @property
    def _value(self) -> float:
        with np.errstate(over="ignore"):
            return float(np.exp(self._surprise.mean))


METRICS = (Metric("perplexity", Perplexity, higher_is_better=False),)
