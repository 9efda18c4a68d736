"""Texts, of which a graph tells nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxopt.data.laws.base import Array, At


@dataclass(frozen=True, slots=True)
class Texts:
    """Single digits."""

    kind: str = ""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        return np.asarray(rng.integers(0, 10, shape)).astype(str).astype(object)
