"""Token ids, and the masks and positions that accompany them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.data.laws.base import Array, At

_PADDED = 0.25
"""Share of samples whose end is masked."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Indices of rows of a table; `frequent` ones fall off with their rank, as words do (Zipf's law)."""

    rows: int
    dtype: np.dtype[Any]
    frequent: bool = False
    kind: str = "token ids"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        if self.frequent:  # density 1 / rank, by inversion
            ranks = np.exp(rng.random(shape) * np.log(self.rows + 1)) - 1
            return np.asarray(np.minimum(ranks, self.rows - 1).astype(self.dtype))
        return rng.integers(0, self.rows, shape).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Mask:
    """Ones, with zeros at the end of some samples."""

    dtype: np.dtype[Any]
    kind: str = ""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        mask = np.ones(shape, self.dtype)
        if len(shape) < 2 or shape[-1] < 2:
            return mask
        for sample in mask.reshape(shape[0], -1, shape[-1]):
            if rng.random() < _PADDED:
                sample[:, rng.integers(shape[-1] // 2, shape[-1]) + 1 :] = 0
        return mask


@dataclass(frozen=True, slots=True)
class Positions:
    """Numbers that count up along the last axis, from what a cache holds, below `rows`."""

    rows: int
    dtype: np.dtype[Any]
    kind: str = ""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        count = (at.past + np.arange(shape[-1] if shape else 1)) % self.rows
        return np.array(np.broadcast_to(count if shape else count[0], shape), self.dtype)
