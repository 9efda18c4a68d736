"""Samples that a model does not know by heart, made of samples that it does: each with a share of the next one.

A model is surer of what it was trained on than of anything else, so its answers there hardly change. Blended with
another sample (as in mixup, Zhang et al. 2018), an image keeps its label and is new to the model. Flips and crops are
not: networks are trained on these, too. docs/contracts.md has what was measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from onnxopt.data import Batch
from onnxopt.metrics import Metric
from onnxopt.search.scores import Drop, Scores

SHARE = 0.2
"""Of the other sample."""

Run = Callable[[Batch], Sequence[Any]]


def blended(batch: Batch) -> Batch | None:
    """The batch with each sample blended with the next; None for a single one, or where inputs are no floats or do not
    have the samples along their first axis."""
    feeds = batch.feeds.values()
    if batch.size < 2 or not all(np.issubdtype(x.dtype, np.floating) and x.shape[:1] == (batch.size,) for x in feeds):
        return None
    mixed = {name: ((1 - SHARE) * x + SHARE * np.roll(x, 1, 0)).astype(x.dtype) for name, x in batch.feeds.items()}
    return Batch(mixed, batch.labels, batch.samples, batch.seen)


class Blends:
    """The original's metric on blended samples, for comparison with other models."""

    def __init__(self, run: Run, metric: Metric, batches: Iterable[Batch]) -> None:
        self._metric, self._outputs, self._before = metric, list[Sequence[Any]](), Scores(metric)
        for batch in batches:
            if (mixed := blended(batch)) is not None:
                self._outputs.append(run(mixed))
                self._before.add(self._outputs[-1], self._outputs[-1], mixed)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._outputs)

    def drop_to(self, run: Run, batches: Iterable[Batch], noise: float) -> Drop:
        """See `Scores.drop_to`; on the batches of the constructor."""
        after = Scores(self._metric)
        mixed = (one for batch in batches if (one := blended(batch)) is not None)
        for one, wanted in zip(mixed, self._outputs, strict=True):
            after.add(run(one), wanted, one)
        return self._before.drop_to(after, noise)

    def resolution(self, drop: float) -> float | None:
        """See `Score.resolution`."""
        return self._before.resolution(drop)
