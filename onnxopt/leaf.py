"""What a stored weight is made of: a plain array, or integers and what turns them back into values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

STEPS_PER_OCTAVE = 4
"""Scales are stored as whole quarters of a power of two: within 9% of any wish, and a few bits each.

Rate against error does not suffer: a finer grid here and a coarser one there cost the same to first order."""

_ROOTS = np.array([2.0 ** (j / STEPS_PER_OCTAVE) for j in range(STEPS_PER_OCTAVE)]).astype(np.float32)


def nearest_log_step(step: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """The stored form ``k`` of each wished scale: ``2^(k/4)`` is the nearest to it in ratio."""
    k = np.rint(np.log2(step) * STEPS_PER_OCTAVE)
    return np.asarray(np.clip(k, -126 * STEPS_PER_OCTAVE, 127 * STEPS_PER_OCTAVE), np.int16)


def step_of(k: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """The scales ``2^(k/4)``, the same float32 bits on every machine."""
    whole = k.astype(np.int32) // STEPS_PER_OCTAVE
    return np.asarray(np.ldexp(_ROOTS[k.astype(np.int32) % STEPS_PER_OCTAVE], whole), np.float32)


def along_axis(rank: int, axis: int) -> tuple[int, ...]:
    """The shape that makes a vector broadcast along `axis` of a tensor of `rank` dimensions."""
    return tuple(-1 if i == axis else 1 for i in range(rank))


@dataclass(frozen=True, slots=True)
class Scaled:
    """A uniform grid: ``value = float32(q) * 2^(k/4)``, then rounded to `dtype`."""

    q: npt.NDArray[np.int32]
    """Of the weight's shape."""
    k: npt.NDArray[np.int16]
    """[q.shape[axis]], or [1] where one scale serves all"""
    axis: int
    dtype: np.dtype[Any]

    def values(self) -> Array:
        """The weight as the loader reconstructs it, bit for bit."""
        scales = step_of(self.k).reshape(along_axis(self.q.ndim, self.axis))
        return (self.q.astype(np.float32) * scales).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Shared:
    """Shared values: ``value = table[index]``."""

    index: npt.NDArray[np.int32]
    """Of the weight's shape."""
    table: Array
    """[number of distinct values]"""

    def values(self) -> Array:
        """The weight as the loader reconstructs it, bit for bit."""
        return np.asarray(self.table[self.index])


Leaf = Scaled | Shared | Array


def values_of(leaf: Leaf) -> Array:
    """The weight as the loader reconstructs it, bit for bit."""
    return leaf if isinstance(leaf, np.ndarray) else leaf.values()


STORABLE = frozenset(
    map(np.dtype, ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64"))
) | frozenset(map(np.dtype, ("uint8", "uint16", "uint32", "uint64")))
"""Element types that an entry can have."""


def relative_error(wanted: Array, got: Array) -> float:
    """Root mean square of the difference over root mean square of `wanted`, in float64."""
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    power, noise = float(np.square(wanted).mean()), float(np.square(got - wanted).mean())
    return (noise / power) ** 0.5 if power > 0 else float(noise > 0)
