"""A metric over a stream of batches, with the standard error of its drop."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.data import Batch
from onnxopt.metrics import Metric, Outputs, Score
from onnxopt.metrics.lost_answers import Margins

_FOLDS = 8
"""Folds of the batches; the metric is taken without each of them in turn."""
_NO_MISTAKES = 99.5
"""Accuracy in percent from which on the model counts as making no mistakes."""
_BY_HEART = 3.0
"""How much larger a drop is expected on new samples where the model knows these by heart, blended or not: it is surer
of them than of others. Measured with training images of CIFAR-10, not blended: 1.6 to 3.8 times for ResNet-32 and
-56."""


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse one model is than another on the same samples; see `onnxopt.spec.promise.Evidence`."""

    drop: float
    spread: float
    likely: float | None
    uncertainty: float
    margins: Margins | None


class Scores:
    """The metric of one model."""

    def __init__(self, metric: Metric) -> None:
        self._metric, self._whole = metric, metric.start()
        self._without: list[Score] = []
        """For a metric that is no mean over samples, the same without each fold."""
        self._batches, self._labelled = 0, False

    def add(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """See `Score.add`."""
        self._whole.add(outputs, reference, batch)
        self._labelled |= batch.labels is not None
        if not self._batches and self._whole.per_sample() is None:
            self._without = [self._metric.start() for _ in range(_FOLDS)]
        for fold, score in enumerate(self._without):
            if fold != self._batches % _FOLDS:
                score.add(outputs, reference, batch)
        self._batches += 1

    def value(self) -> float:
        """The metric over all batches."""
        return self._whole.value()

    @property
    def by_heart(self) -> bool:
        """Whether the model makes almost no mistakes on labelled data, which suggests that it was trained on them."""
        return self._labelled and self._metric.is_accuracy and self.value() >= _NO_MISTAKES

    def drop_to(self, after: Scores, noise: float) -> Drop:
        """The drop from this model to another, on the same batches.

        Arguments:
            noise: see `Score.likely_drop`. A metric without an estimate of its own is expected to drop in proportion to
                the noise's power.
        """
        drop = self._metric.drop(self.value(), after.value())
        spread = self._spread(after)
        likely = after._whole.likely_drop(noise)
        if likely is None and noise > 1:
            likely = max(drop, 0.0) * noise**2, spread * noise**2
        expected, uncertainty = likely or (None, spread)
        if expected is not None and self.by_heart:
            expected, uncertainty = _BY_HEART * expected, _BY_HEART * uncertainty
        return Drop(drop, spread, expected, uncertainty, after._whole.margins())

    def resolution(self, drop: float) -> float | None:
        """See `Score.resolution`."""
        return self._whole.resolution(drop)

    def _spread(self, after: Scores) -> float:
        """Standard error of the drop: of a mean from its paired differences, else by the jackknife over folds (Efron &
        Stein 1981). 0 if there is a single sample or fold."""
        ours, theirs = self._whole.per_sample(), after._whole.per_sample()
        if ours is not None and theirs is not None:
            with np.errstate(invalid="ignore"):  # a divergence may be infinite
                return float(np.std(theirs - ours, ddof=1) / len(ours) ** 0.5) if len(ours) > 1 else 0.0
        folds = min(self._batches, _FOLDS)
        if folds < 2:
            return 0.0
        without = [
            self._metric.drop(one.value(), other.value())
            for one, other in zip(self._without[:folds], after._without[:folds], strict=True)
        ]
        return float(np.std(without) * (folds - 1) ** 0.5)
