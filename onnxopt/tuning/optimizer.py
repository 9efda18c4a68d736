"""Adam, and how fast it goes."""

from __future__ import annotations

from math import cos, pi

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]

_FIRST, _SECOND = 0.9, 0.99
"""Decay of the averages of gradients and of their squares."""
_TINY = np.float32(1e-20)
_RISE = 0.1
"""Share of the updates in which the rate rises."""
_CHUNK = 1 << 15
"""Elements treated at a time: all that is read of them fits into a core's cache."""


class Adam:
    """Adam (Kingma & Ba 2015) on one vector, in place."""

    def __init__(self, size: int) -> None:
        self.mean, self.square = np.zeros(size, np.float32), np.zeros(size, np.float32)
        """Of the gradients, and of their squares."""
        self.updates = 0

    def update(self, values: Vector, gradient: Vector, rate: float) -> None:
        """Moves every value by about `rate`, against its gradient."""
        self.updates += 1
        unbiased = (1 - _SECOND**self.updates) ** 0.5
        scale = np.float32(rate * unbiased / (1 - _FIRST**self.updates))
        for at in range(0, len(values), _CHUNK):
            part = slice(at, at + _CHUNK)
            mean, square, now = self.mean[part], self.square[part], gradient[part]
            mean += np.float32(1 - _FIRST) * (now - mean)
            square += np.float32(1 - _SECOND) * (now * now - square)
            values[part] -= scale * mean / (np.sqrt(square) + _TINY)


def scheduled(rate: float, done: float) -> float:
    """The rate after a share of the updates, 0 to 1: it rises to `rate`, then falls to 0 as a cosine does (Loshchilov &
    Hutter 2017). The first updates of Adam would move all values alike, by the whole rate."""
    return rate * min(1.0, done / _RISE) * 0.5 * (1 + cos(pi * done))
