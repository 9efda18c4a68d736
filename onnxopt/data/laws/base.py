"""What every law has in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class At:
    """Where a batch is drawn."""

    index: int = 0
    """Its number."""
    past: int = 0
    """What came before it, in steps of a cache that grows."""
    length: int = 1
    """The longest of its samples, in steps."""


class Law(Protocol):
    """How one input is drawn."""

    @property
    def kind(self) -> str:
        """For reports, in the plural: images, signals, token ids. Empty for what only accompanies other inputs."""

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """A batch of this shape. Equal arguments, with equal states of `rng`, give equal batches."""
