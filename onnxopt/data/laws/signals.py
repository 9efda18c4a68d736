"""Signals: white noise, heavy tails, and smooth ones, at a scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.data.laws.base import Array, At

SHAPES = ("white", "smooth", "heavy")
"""White noise; power that falls with frequency along the longest axis, as in sound, sensors and spectra; rare large
values, as in features and counts."""
_FREEDOM = 3.0
"""Degrees of freedom of Student's distribution: the fewest, as an integer, with a variance."""
_LARGEST = 30.0
"""Bound on heavy tails, in standard deviations."""


@dataclass(frozen=True, slots=True)
class Signal:
    """Values of mean `offset` and standard deviation `spread`."""

    shape: str
    """One of `SHAPES`."""
    dtype: np.dtype[Any]
    spread: float = 1.0
    offset: float = 0.0
    kind: str = "signals"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        match self.shape:
            case "smooth":
                z = _smooth(rng, shape)
            case "heavy":
                z = _heavy(rng, shape)
            case _:
                z = rng.standard_normal(shape)
        values = np.asarray(self.spread * z + self.offset)
        if self.dtype.kind == "f":
            return np.asarray(values.astype(self.dtype))
        limits = np.iinfo(self.dtype)
        return np.asarray(np.clip(np.rint(values), limits.min, limits.max).astype(self.dtype))


def _smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Amplitude 1 / f along the longest axis, and a loudness of its own for each sample."""
    z = rng.standard_normal(shape)
    if z.size < 2 or max(shape) < 4:
        return z
    axis = int(np.argmax(shape))
    frequency = np.maximum(np.arange(shape[axis] // 2 + 1), 1.0)
    spectrum = np.fft.rfft(z, axis=axis) / frequency.reshape(-1, *(1,) * (len(shape) - axis - 1))
    z = np.fft.irfft(spectrum, shape[axis], axis=axis)
    z /= np.sqrt(np.square(z).mean()) or 1.0
    loudness = np.exp(rng.normal(0, 0.7, (shape[0], *(1,) * (len(shape) - 1))))
    return np.asarray(z * loudness / np.sqrt(np.square(loudness).mean()))


def _heavy(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(
        np.clip(rng.standard_t(_FREEDOM, shape), -_LARGEST, _LARGEST) / np.sqrt(_FREEDOM / (_FREEDOM - 2))
    )
