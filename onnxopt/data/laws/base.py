"""What every law has in common."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Law(Protocol):
    """How one input is drawn."""

    @property
    def kind(self) -> str:
        """For reports, in the plural: images, signals, token ids. Empty for what only accompanies other inputs."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], index: int) -> Array:
        """The batch of this number and shape. Equal states of `rng` give equal batches."""
