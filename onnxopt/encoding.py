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
class Affine:
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
class Codebook:
    """Shared values: ``value = table[index]``."""

    index: npt.NDArray[np.int32]
    """Of the weight's shape."""
    table: Array
    """[number of distinct values]"""

    def values(self) -> Array:
        """The weight as the loader reconstructs it, bit for bit."""
        return np.asarray(self.table[self.index])


@dataclass(frozen=True, slots=True)
class Blockwise:
    """A matrix with a scale for every block of inputs, which stays integers when the model runs.

    ``W[o, i] = float32(q[o, i]) * 2^(k[o, i // block] / 4)``. Under the weight's name the integers are stored as
    ONNX Runtime's operator MatMulNBits reads them; the scales are a weight of their own.
    """

    q: npt.NDArray[np.int8]
    """[outputs, inputs], below ``2^(bits - 1)`` in magnitude"""
    k: npt.NDArray[np.int16]
    """[outputs, blocks]; the last block may be a part of one"""
    bits: int
    """4 or 8"""
    block: int
    across: bool
    """The weight is ``[inputs, outputs]``."""

    def values(self) -> Array:
        """The weight as the operator sees it, in float32."""
        scales = np.repeat(step_of(self.k), self.block, 1)[:, : self.q.shape[1]]
        w = self.q.astype(np.float32) * scales
        return np.ascontiguousarray(w.T) if self.across else w

    def packed(self) -> npt.NDArray[np.uint8]:
        """[outputs, blocks, block * bits / 8]: integers from 0, of two in a byte the first in its low half."""
        outputs, inputs = self.q.shape
        blocks = self.k.shape[1]
        zero = 2 ** (self.bits - 1)
        codes = np.full((outputs, blocks * self.block), zero, np.uint8)
        codes[:, :inputs] = self.q.astype(np.int16) + zero
        if self.bits == 4:
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        return codes.reshape(outputs, blocks, -1)

    def scales(self, factor: float) -> Codebook:
        """[outputs * blocks]: times `factor`, in float32."""
        used, index = np.unique(self.k, return_inverse=True)
        return Codebook(index.ravel().astype(np.int32), step_of(used) * np.float32(factor))


Stored = Affine | Codebook | Array
"""What one entry of a container can hold."""
Encoding = Stored | Blockwise


def values_of(leaf: Encoding) -> Array:
    """The weight as the loader reconstructs it, bit for bit."""
    return leaf if isinstance(leaf, np.ndarray) else leaf.values()


def tensor_of(leaf: Encoding) -> Array:
    """What a model has under the leaf's name when it runs: values, or the integers of a matrix in blocks."""
    return leaf.packed() if isinstance(leaf, Blockwise) else values_of(leaf)


STORABLE = frozenset(
    map(np.dtype, ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64"))
) | frozenset(map(np.dtype, ("uint8", "uint16", "uint32", "uint64")))
"""Element types that an entry can have."""


def relative_error(wanted: Array, got: Array) -> float:
    """Root mean square of the difference over root mean square of `wanted`, in float64."""
    wanted, got = wanted.astype(np.float64), got.astype(np.float64)
    power, noise = float(np.square(wanted).mean()), float(np.square(got - wanted).mean())
    return (noise / power) ** 0.5 if power > 0 else float(noise > 0)
