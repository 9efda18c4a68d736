"""Language models: the scores of the next token, and means over tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onnxopt.data import Array, Batch, Part, parts_of
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Outputs
from onnxopt.metrics.class_scores import is_float, shapes
from onnxopt.metrics.pooled import attention_mask


@dataclass(frozen=True, slots=True)
class Predictions:
    """What a batch asks of a language model."""

    output: int
    """Index of the output of scores ``[samples, tokens, vocabulary]``."""
    ids: Array
    """[samples, tokens]"""
    kept: Array
    """[samples, tokens], truth values: which are no padding."""


def predictions(outputs: Outputs, reference: Outputs, batch: Batch, metric: str) -> Predictions:
    """Finds the token ids among the inputs, and the scores of the next ones among the outputs.

    Raises OnnxoptError, which names the `metric`, where the model is no language model, or gives other outputs than the
    original.
    """
    name = parts_of({name: array.dtype for name, array in batch.feeds.items()}).get(Part.IDS)
    ids = np.zeros(0, np.int64) if name is None else batch.feeds[name]
    mask = attention_mask(batch)
    found = next((i for i, output in enumerate(reference) if _scores(output, ids)), None)
    if found is None or (mask is not None and mask.shape != ids.shape):
        given = ", ".join(f"{name} {list(array.shape)}" for name, array in batch.feeds.items())
        raise OnnxoptError(f"{metric}: needs an input of token ids [samples, tokens] and an output of scores [samples, "
                           f"tokens, vocabulary], the model takes {given or 'nothing'} and gives "
                           f"{shapes(reference)}")  # fmt: skip
    if np.shape(outputs[found]) != np.shape(reference[found]):
        raise OnnxoptError(f"{metric}: the original gives {shapes([reference[found]])}, the model "
                           f"{shapes([outputs[found]])}")  # fmt: skip
    return Predictions(found, ids, np.ones(ids.shape, bool) if mask is None else mask)


def _scores(output: Any, ids: Array) -> bool:
    """Whether an output may hold scores of all ids after each of these."""
    return is_float(output) and output.ndim == 3 and output.shape[:2] == ids.shape and output.shape[2] > ids.max()


@dataclass(slots=True)
class MeanOverTokens:
    """A mean over the tokens of all samples, as a mean over samples.

    A ratio of sums is no mean over samples, as some have more tokens. Its linearisation is one, with the same value
    and, for many samples, the same standard error: each sample counts as the mean, plus how far it pulls it (the
    infinitesimal jackknife).
    """

    sums: list[float] = field(default_factory=list)
    """By sample, over its tokens."""
    counts: list[int] = field(default_factory=list)
    """Tokens, by sample."""

    @property
    def mean(self) -> float:
        """NaN without tokens."""
        return sum(self.sums) / sum(self.counts) if sum(self.counts) else float("nan")

    def pulls(self) -> Array:
        """How far each sample pulls the mean, ``[samples]``; their own mean is 0."""
        sums, counts = np.array(self.sums, np.float64), np.array(self.counts, np.float64)
        with np.errstate(invalid="ignore"):  # a sum may be infinite
            return np.asarray((sums - self.mean * counts) / max(counts.mean(), 1e-300)) if counts.sum() else 0 * sums
