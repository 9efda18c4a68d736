"""The bits of integers, as a function that has a gradient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxopt.tuning.optimizer import Vector

_UNSEEN = 0.5
"""What an integer counts that has not come up, two of which lie beyond either end of a histogram."""


class Rate:
    """Code lengths ``-log2 p(q)`` of the integers of each weight, p their histogram when the codes were last made.

    Between neighbouring integers, the length is a line. So it has a gradient, ``bits(q + 1) - bits(q)`` for one step of
    the weight, which moves weights towards frequent integers.

    Arguments:
        sizes: elements of each weight.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        ends = np.cumsum([0, *sizes])
        self._parts = list(itertools.starmap(slice, itertools.pairwise(ends)))
        self._codes: list[tuple[int, Vector]] = []

    def learn(self, masters: Vector) -> None:
        """Makes the codes from the integers of all weights, ``masters[elements]`` in steps."""
        self._codes = [_code(np.rint(masters[part]).astype(np.int32)) for part in self._parts]

    def bits(self, masters: Vector) -> float:
        """Bits of all integers."""
        return float(sum(_taken(bits, np.rint(masters[part]), low).sum(dtype=np.float64)
                         for part, (low, bits) in zip(self._parts, self._codes, strict=True)))  # fmt: skip

    def gradient(self, masters: Vector) -> Vector:
        """Bits that one step more adds to each weight."""
        found = np.empty_like(masters)
        for part, (low, bits) in zip(self._parts, self._codes, strict=True):
            found[part] = _taken(np.diff(bits), np.floor(masters[part]), low)
        return found


def _code(q: npt.NDArray[np.int32]) -> tuple[int, Vector]:
    """The least integer of a code, and the lengths from there on."""
    low = int(q.min()) - 2
    counts = np.bincount(q - low, minlength=int(q.max()) - low + 3) + _UNSEEN
    return low, np.asarray(-np.log2(counts / counts.sum()), np.float32)


def _taken(table: Vector, integers: Vector, low: int) -> Vector:
    """The table's numbers for integers of which `low` is the first."""
    return np.asarray(np.take(table, integers.astype(np.int32) - low, mode="clip"))
