"""How a weight is stored: its elements as they are, or integers and the parameters that turn them into values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from enum import IntEnum
from math import prod
from typing import Any, Self, cast

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxopt.native import EIGHT_BITS, PAIRED, SIXTEEN_BITS, paired

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int8] | npt.NDArray[np.int16] | npt.NDArray[np.int32]

STEPS_PER_OCTAVE = 4
"""Scales are stored as quarter powers of two: within 9% of any wanted scale, at a few bits each.

The rate-distortion trade-off does not suffer: to first order, a finer grid in one place pays for a coarser one in
another."""

STORABLE = PAIRED | EIGHT_BITS | SIXTEEN_BITS | frozenset(
    map(np.dtype, ("float16", "float32", "float64", "bool", "int8", "int16", "int32", "int64",
                   "uint8", "uint16", "uint32", "uint64"))
)  # fmt: skip
"""Element types that an entry may have."""

_SPARSE = 1.5
"""Integers from the least to the largest for each one that occurs, from which on those that occur are numbered."""
_PIECE = 1 << 20
"""Elements of which there are copies in float64."""
_ROOTS = np.array([2.0 ** (j / STEPS_PER_OCTAVE) for j in range(STEPS_PER_OCTAVE)]).astype(np.float32)


def nearest_log_step(step: npt.NDArray[np.float64]) -> npt.NDArray[np.int16]:
    """The stored form ``k`` of each wanted scale: ``2^(k/4)`` is the nearest in ratio."""
    k = np.rint(np.log2(step) * STEPS_PER_OCTAVE)
    return np.asarray(np.clip(k, -126 * STEPS_PER_OCTAVE, 127 * STEPS_PER_OCTAVE), np.int16)


def step_of(k: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """The scales ``2^(k/4)``, the same float32 bits on every machine."""
    whole = k.astype(np.int32) // STEPS_PER_OCTAVE
    return np.asarray(np.ldexp(_ROOTS[k.astype(np.int32) % STEPS_PER_OCTAVE], whole), np.float32)


def along_axis(rank: int, axis: int) -> tuple[int, ...]:
    """The shape in which a vector broadcasts along `axis` of a tensor with `rank` dimensions."""
    return tuple(-1 if i == axis else 1 for i in range(rank))


def matrix_view(dims: tuple[int, ...], axis: int) -> tuple[int, int]:
    """Rows and columns as codecs see them. A row holds the dimensions after the axis, or the axis itself if it is the
    last."""
    inner = prod(dims[axis + 1 :])
    return (prod(dims[: axis + 1]), inner) if inner > 1 else (prod(dims[:axis]), dims[axis])


def narrowed(q: Array) -> Integers:
    """The integers in the smallest type that holds them: there are as many as weights."""
    least, most = (int(q.min()), int(q.max())) if q.size else (0, 0)
    for kind in (np.int8, np.int16):
        if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max:
            return cast(Integers, q.astype(kind))
    return cast(Integers, q.astype(np.int32))


class Reconstruction(IntEnum):
    """How the reader turns an entry's integers into elements; the numbers of FORMAT.md."""

    RAW = 0
    AFFINE = 1
    CODEBOOK = 2
    RELATIVE = 3


@dataclass(frozen=True, slots=True)
class UncodedEntry:
    """One entry of the container, before its elements are coded."""

    dtype: np.dtype[Any]
    """Of the reconstructed tensor."""
    elements: Array
    """Of the tensor's shape: `Integers` where an integer codec may be used, else elements for the lossless codec."""
    reconstruction: Reconstruction = Reconstruction.RAW
    axis: int = 0
    """Along which the scales lie."""
    dims: tuple[int, ...] = ()
    """Of the reconstructed tensor, where `elements` are pairs [size / 2]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the reconstructed tensor."""
        return self.dims or self.elements.shape

    @property
    def matrix(self) -> Array:
        """The elements as codecs see them: [rows, cols], or pairs [rows, cols / 2] or [1, size / 2]."""
        rows, cols = matrix_view(self.shape, self.axis)
        if self.dims:
            rows = 1 if cols % 2 else rows
        return np.ascontiguousarray(self.elements).reshape(rows, -1)

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for entries of equal content."""
        return self.dtype, self.elements.shape, self.elements.tobytes()


@dataclass(frozen=True, slots=True)
class Symbols:
    """A weight as an entropy coder sees it."""

    values: Array
    """Of the weight's shape, or its transpose; 0 exactly where the weight is 0."""
    element_bits: int
    """Bits of one reconstructed element."""
    table_bits: int = 0
    """Bits of all scales, or of the table."""
    few: bool = True
    """Whether `values` come from a small alphabet that a code can shorten; floats as they are do not."""


class Encoding(ABC):
    """What is stored in the place of one weight."""

    @abstractmethod
    def values(self) -> Array:
        """The weight as the loader reconstructs it, bit for bit."""

    def run_time_tensor(self) -> Array:
        """The initializer that the running model has under the weight's name."""
        return self.values()

    @abstractmethod
    def entries(self) -> tuple[UncodedEntry, ...]:
        """What the container stores: the weight's own entry last, its scales or table before it."""

    @abstractmethod
    def masked(self, kept: Mask) -> Encoding:
        """The same weight with zeros where `kept`, of the weight's shape, is false."""

    @abstractmethod
    def symbols(self) -> Symbols:
        """What an entropy coder sees of the weight."""


@dataclass(frozen=True, slots=True)
class Raw(Encoding):
    """The elements as they are."""

    elements: Array

    def values(self) -> Array:
        """The elements."""
        return self.elements

    def entries(self) -> tuple[UncodedEntry, ...]:
        """One entry: integers for an integer codec where int32 holds them, else elements for the lossless codec."""
        dtype, dims = self.elements.dtype, self.elements.shape
        if dtype in PAIRED:
            return (UncodedEntry(dtype, paired(self.elements), dims=dims),)
        if dtype in EIGHT_BITS:
            return (UncodedEntry(dtype, self.elements.view(np.uint8)),)
        integers = self.elements.dtype.kind in "iub" and self._fits_int32()
        return (UncodedEntry(dtype, self.elements.astype(np.int32) if integers else self.elements),)

    def _fits_int32(self) -> bool:
        bounds = np.iinfo(np.int32)
        return bounds.min <= int(self.elements.min()) and int(self.elements.max()) <= bounds.max

    def masked(self, kept: Mask) -> Self:
        """The elements, or zero."""
        return replace(self, elements=np.where(kept, self.elements, self.elements.dtype.type(0)))

    def symbols(self) -> Symbols:
        """The elements themselves."""
        return Symbols(self.elements, 8 * self.elements.itemsize, few=False)


@dataclass(frozen=True, slots=True)
class Affine(Encoding):
    """A uniform grid: ``value = float32(q) * 2^(k/4)``, then rounded to `dtype`."""

    q: Integers
    """Of the weight's shape."""
    k: npt.NDArray[np.int16]
    """[q.shape[axis]], or [1] where one scale serves all"""
    axis: int
    dtype: np.dtype[Any]

    def values(self) -> Array:
        """The integers times their scales, rounded to `dtype`."""
        scales = step_of(self.k).reshape(along_axis(self.q.ndim, self.axis))
        made = self.q.astype(np.float32)
        made *= scales  # in place, as a table of words is large
        return made.astype(self.dtype, copy=False)

    def entries(self) -> tuple[UncodedEntry, ...]:
        """Scales, then integers."""
        scales = UncodedEntry(np.dtype(np.int16), self.k.astype(np.int32))
        return scales, UncodedEntry(self.dtype, self.q, Reconstruction.AFFINE, self.axis)

    def masked(self, kept: Mask) -> Self:
        """On the same grid."""
        return replace(self, q=narrowed(np.where(kept, self.q, 0)))

    def symbols(self) -> Symbols:
        """The integers."""
        return Symbols(self.q.astype(np.int32), 8 * self.dtype.itemsize, 8 * self.k.nbytes)


@dataclass(frozen=True, slots=True)
class Codebook(Encoding):
    """Shared values: ``value = table[index]``."""

    index: npt.NDArray[np.int32]
    """Of the weight's shape."""
    table: Array
    """[number of distinct values]"""

    def values(self) -> Array:
        """The table's values at the indices."""
        return np.asarray(self.table[self.index])

    def entries(self) -> tuple[UncodedEntry, ...]:
        """Table, then indices."""
        own = UncodedEntry(self.table.dtype, self.index, Reconstruction.CODEBOOK)
        return UncodedEntry(self.table.dtype, self.table), own

    def masked(self, kept: Mask) -> Self:
        """With a table that has a zero."""
        table = self.table if (self.table == 0).any() else np.append(self.table, self.table.dtype.type(0))
        zero = np.flatnonzero(table == 0)[0]
        return replace(self, index=np.where(kept, self.index, zero).astype(np.int32), table=table)

    def symbols(self) -> Symbols:
        """The indices from 1, or 0 for the table's zeros."""
        symbol = np.where(self.table == 0, 0, np.arange(1, len(self.table) + 1))
        return Symbols(symbol[self.index], 8 * self.table.itemsize, 8 * self.table.nbytes)


@dataclass(frozen=True, slots=True)
class Blockwise(Encoding):
    """A matrix with one scale for each block of inputs, which stays in integers at run time.

    ``W[o, i] = float32(q[o, i]) * 2^(k[o, i // block] / 4)``. The entry under the weight's name holds the integers in
    the layout of ONNX Runtime's operator MatMulNBits; the scales are a weight of their own (`scales`).
    """

    q: npt.NDArray[np.int8]
    """[outputs, inputs], below ``2^(bits - 1)`` in magnitude"""
    k: npt.NDArray[np.int16]
    """[outputs, blocks]; the last block may be shorter"""
    bits: int
    """4 or 8"""
    block: int
    """Inputs that share a scale."""
    across: bool
    """The weight is ``[inputs, outputs]``."""

    def values(self) -> Array:
        """The weight as the operator reconstructs it, in float32."""
        scales = np.repeat(step_of(self.k), self.block, 1)[:, : self.q.shape[1]]
        w = self.q.astype(np.float32) * scales
        return np.ascontiguousarray(w.T) if self.across else w

    def run_time_tensor(self) -> npt.NDArray[np.uint8]:
        """[outputs, blocks, block * bits / 8]: integers from 0; of two in a byte, the first is the low half."""
        outputs, inputs = self.q.shape
        blocks = self.k.shape[1]
        zero = 2 ** (self.bits - 1)
        codes = np.full((outputs, blocks * self.block), zero, np.uint8)
        codes[:, :inputs] = self.q.astype(np.int16) + zero
        if self.bits == 4:
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        return codes.reshape(outputs, blocks, -1)

    def entries(self) -> tuple[UncodedEntry, ...]:
        """The operator's integers."""
        return Raw(self.run_time_tensor()).entries()

    def masked(self, kept: Mask) -> Self:
        """With the same scales."""
        return replace(self, q=np.where(kept.T if self.across else kept, self.q, 0).astype(np.int8))

    def symbols(self) -> Symbols:
        """The integers; scales are float32 at run time."""
        return Symbols(self.q, 32, 32 * self.k.size)

    def scales(self, factor: float) -> Codebook:
        """[outputs * blocks]: the scales times `factor`, in float32."""
        used, index = np.unique(self.k, return_inverse=True)
        return Codebook(index.ravel().astype(np.int32), step_of(used) * np.float32(factor))


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """The scales that the integers of a weight came with: ``value = (q - zero) * scale``."""

    scale: Array
    """Broadcasts to the integers; of the type of the values."""
    zero: npt.NDArray[np.int32]
    """Likewise."""
    dtype: np.dtype[Any]
    """Of the integers."""
    shape: tuple[int, ...]
    """Of the integers."""
    order: tuple[int, ...] = ()
    """The integers' axes, in the order that the values have them; empty where that is the same."""

    def floats(self, q: Array) -> Array:
        """The values of integers."""
        return self._turned(((q.astype(np.int32) - self.zero) * self.scale).astype(self.scale.dtype))

    def nearest(self, values: Array) -> Array:
        """The integers nearest to values."""
        limits = ml_dtypes.iinfo(self.dtype)  # type: ignore[no-untyped-call]
        turned = values.transpose(np.argsort(self.order)) if self.order else values
        q = np.rint(turned.astype(np.float32) / self.scale) + self.zero
        return np.ascontiguousarray(np.clip(q, int(limits.min), int(limits.max)).astype(self.dtype))

    def units(self) -> Array:
        """What a step of one integer adds to each value, in the values' shape; a view."""
        return self._turned(np.broadcast_to(self.scale, self.shape))

    def _turned(self, values: Array) -> Array:
        return values.transpose(self.order) if self.order else values


@dataclass(frozen=True, slots=True)
class InPlace(Encoding):
    """Integers that a model came with, moved to others of the same grid: the same kernels multiply by them."""

    q: Array
    """Of the grid's type and shape."""
    grid: Grid

    def values(self) -> Array:
        """What the model computes of the integers."""
        return self.grid.floats(self.q)

    def run_time_tensor(self) -> Array:
        """The integers."""
        return self.q

    def entries(self) -> tuple[UncodedEntry, ...]:
        """Integers that leave out others between them by their number, as far fewer bits say it; others as they are."""
        if self.q.dtype in PAIRED or self.q.dtype.itemsize > 1:
            return Raw(self.q).entries()
        table, index = np.unique(self.q, return_inverse=True)
        if int(table[-1]) - int(table[0]) < _SPARSE * len(table):
            return Raw(self.q).entries()
        return Codebook(index.reshape(self.q.shape).astype(np.int32), table).entries()

    def masked(self, kept: Mask) -> Self:
        """With the grid's zeros."""
        values = self.values()
        return replace(self, q=self.grid.nearest(np.where(kept, values, values.dtype.type(0))))

    def symbols(self) -> Symbols:
        """The integers, less their zeros."""
        return Symbols(self.q.astype(np.int32) - self.grid.zero, 8 * self.q.dtype.itemsize)


def square_sum(values: Array) -> float:
    """Sum of squares in float64, piece by piece: a copy of a large table would be twice as large as the table."""
    flat = values.reshape(-1)
    pieces = (flat[at : at + _PIECE].astype(np.float64) for at in range(0, flat.size, _PIECE))
    return float(sum(np.square(piece).sum() for piece in pieces))


def relative_error(wanted: Array, got: Array) -> float:
    """Root mean square of the difference over root mean square of `wanted`, in float64."""
    signal, noise, a, b = square_sum(wanted), 0.0, wanted.reshape(-1), got.reshape(-1)
    for at in range(0, a.size, _PIECE):
        noise += square_sum(b[at : at + _PIECE].astype(np.float64) - a[at : at + _PIECE])
    return (noise / signal) ** 0.5 if signal > 0 else float(noise > 0)
