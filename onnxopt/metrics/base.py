"""What a metric is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.lost_answers import Margins

Outputs = Sequence[Any]
"""A model's outputs on one batch, in the model's order. Outputs that are not arrays (sequences, maps) are ignored."""


class Score(ABC):
    """A metric of one model, accumulated over a stream of batches."""

    @abstractmethod
    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Takes one batch: a model's outputs, the original model's on the same inputs, the inputs and the labels.

        Raises OnnxoptError where the metric does not fit the outputs, the inputs or the labels.
        """

    @abstractmethod
    def value(self) -> float:
        """The metric over all batches so far. Raises OnnxoptError where there were none."""

    def per_sample(self) -> Array | None:
        """The numbers, one for each sample, whose mean is the value; None where the value is no such mean."""
        return None

    def likely_drop(self, noise: float = 1.0) -> tuple[float, float] | None:
        """The expected drop on new samples of this kind, and its standard error; None without such an estimate.

        Arguments:
            noise: factor by which outputs on new samples change more than on these.
        """
        return None

    def resolution(self, drop: float) -> float | None:
        """The standard error that `likely_drop` would have for a model that drops by so much on the samples so far;
        None where that cannot be told before there is such a model."""
        return None

    def margins(self) -> Margins | None:
        """How far the samples are from what a change of the outputs would cost; None where that is not known."""
        return None


@dataclass(frozen=True, slots=True)
class Metric:
    """What `--metric` names."""

    name: str
    start: Callable[[], Score]
    """Starts measuring a model. The original itself is measured with its outputs as both."""
    higher_is_better: bool
    is_accuracy: bool = False
    """Whether the value is the percentage of right answers, so that drops are percentage points."""

    def drop(self, before: float, after: float) -> float:
        """How much worse `after` is than `before`: 0 for as good, negative for better."""
        return before - after if self.higher_is_better else after - before


def at_least_one(samples: int) -> int:
    """The number of samples. Raises OnnxoptError where it is 0."""
    if not samples:
        raise OnnxoptError("there are no samples to measure on")
    return samples
