"""Integers of a few values: what the graph compares them with, or small counts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.data.laws.base import Array, At


@dataclass(frozen=True, slots=True)
class Codes:
    """Each value as likely as the others."""

    values: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: str = ""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        return np.asarray(rng.choice(np.array(self.values), shape)).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Lengths:
    """How many steps of each sample count: at least half of them, and all of the first sample's."""

    dtype: np.dtype[Any]
    kind: str = ""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        lengths = rng.integers(-(-at.length // 2), at.length + 1, shape)
        lengths.reshape(-1)[:1] = at.length
        return np.asarray(lengths).astype(self.dtype)


def codes_near(compared: Iterable[int], dtype: np.dtype[Any]) -> tuple[int, ...]:
    """Values on both sides of each that an input is compared with, the value itself first."""
    limits = np.iinfo(dtype)
    near = (value + side for value in compared for side in (0, 1))
    return tuple(dict.fromkeys(value for value in near if limits.min <= value <= limits.max)) or (0, 1)
