"""How far the student's outputs are from the teacher's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from onnxopt.encoding import Array
from onnxopt.graph.autodiff.gradient import Start, centred

_TEMPERATURE = np.float32(4)
"""Of the probabilities in `Loss`."""


class Loss:
    """The distance of observed values, and its gradient. Each value counts relative to its power, a sample's mean.

    The distance of values z from the teacher's t is their noise, ``|z - t|^2``, as `output_error` measures it: without
    the mean over classes where only differences count.

    Where `answers` count, half of the distance of scores is ``2 k T^2 KL(softmax(t / T) || softmax(z / T))`` for k
    classes at a temperature T (Hinton et al. 2015), and half is noise. For large T both are the same, so they have one
    price; a small T spares scores that no answer depends on.

    Where labels have a share, ``2 k`` times the cross-entropy with them has that share of the distance of scores
    [samples, classes]: it is the divergence at temperature 1 from a teacher that is always right.

    Arguments:
        labels: their share, 0 to 1.
    """

    def __init__(self, answers: bool, labels: float = 0.0) -> None:
        self._answers, self._share = answers, labels
        self._powers: dict[str, float] = {}

    def learn(self, starts: Sequence[Start], samples: int, wanted: Sequence[Mapping[str, Array]]) -> None:
        """Takes the powers of the teacher's values from some batches with this many samples."""
        for start in starts:
            powers = (_power(centred(one[start.name], self._axis(start))) for one in wanted)
            self._powers[start.name] = sum(powers) / samples

    def takes(self, start: Start, labels: Array) -> bool:
        """Whether the labels are classes of these scores."""
        return (
            len(start.shape) == 2
            and start.classes in (None, 1)
            and labels.shape in ((start.shape[0],), (start.shape[0], 1))
            and labels.dtype.kind in "iu"
            and 0 <= int(labels.min()) <= int(labels.max()) < start.shape[1]
        )

    def of(
        self, start: Start, values: Array, wanted: Array, samples: int, labels: Array | None = None
    ) -> tuple[float, Array]:
        """The distance of a batch of values, a sample's mean, and its gradient."""
        scale, axis = samples * self._powers[start.name], self._axis(start)
        if scale <= 0:
            return 0.0, np.zeros(start.shape, np.float32)
        z, t = values.astype(np.float32), wanted.astype(np.float32)
        noise = z - t
        noise = centred(np.where(np.isfinite(noise), noise, np.float32(0)), axis)
        distance, gradient = _power(noise) / scale, noise * np.float32(2 / scale)
        if self._answers and axis is not None:
            log_p, log_q = (_log_softmax(one / _TEMPERATURE, axis) for one in (t, z))
            p, factor = np.exp(log_p), 2 * start.shape[axis] * _TEMPERATURE
            divergence = float(factor * _TEMPERATURE * np.sum(p * (log_p - log_q), dtype=np.float64)) / scale
            towards = (np.exp(log_q) - p) * np.float32(factor / scale)
            distance, gradient = (distance + divergence) / 2, (gradient + towards) / 2
        if self._share and labels is not None and self.takes(start, labels):
            told, to_labels = _cross_entropy(z, labels.ravel(), 2 * start.shape[1] / scale)
            distance = (1 - self._share) * distance + self._share * told
            gradient = np.float32(1 - self._share) * gradient + np.float32(self._share) * to_labels
        return distance, gradient

    def _axis(self, start: Start) -> int | None:
        """The axis of the classes; None if a value has none, or its answers do not count."""
        if start.classes is not None or not self._answers:
            return start.classes
        wide = [axis for axis, size in enumerate(start.shape) if axis and size > 1]
        return wide[-1] if len(wide) in (1, 2) else None  # scores [n, classes] or [n, places, classes]


def _cross_entropy(scores: Array, labels: Array, factor: float) -> tuple[float, Array]:
    """Of scores [samples, classes] with labels [samples], summed, and its gradient; both times a factor."""
    log_q, rows = _log_softmax(scores, 1), np.arange(len(labels))
    gradient = np.exp(log_q)
    gradient[rows, labels] -= 1
    return -factor * float(log_q[rows, labels].sum(dtype=np.float64)), gradient * np.float32(factor)


def _log_softmax(scores: Array, axis: int) -> Array:
    shifted = scores - scores.max(axis, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis, keepdims=True)))


def _power(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())
