"""What a weight is to training: some numbers, in units of which Adam's rates are right."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from onnxopt.encoding import Affine, Array, Codebook, Encoding, Mask, Raw, along_axis, matrix_view, step_of
from onnxopt.tuning.optimizer import Vector

_SHARE, _SHARE_OF_WEIGHT, _SHARE_OF_SCALE = 16, 8, 4
"""Of the root mean square of a bias, of pruned or shared weights, and of the scale of a range, the part that its unit
is."""
_LEAST = 1e-4
"""Unit of a bias of zeros."""
_FURTHEST = 8
"""Times as large or as small as at first, at most, a scale becomes."""


@dataclass(frozen=True, slots=True)
class Weight(ABC):
    """One of them, as some numbers that are trained, in units."""

    path: str

    @staticmethod
    def of(path: str, start: Encoding, masked: bool = False, most: int = 0, fixed: bool = False) -> Weight:
        """The weight that is stored so at first.

        Arguments:
            masked: whether elements of floats that are 0 stay so.
            most: largest magnitude of integers; 0: any.
            fixed: whether steps stay as they are.
        """
        if isinstance(start, Affine):
            return Rounded(path, start, most, fixed)
        if isinstance(start, Codebook):
            return Shared(path, start)
        return Floats(path, start.values(), masked)

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The least and the largest number, in units; None where they may be any."""
        return None

    @abstractmethod
    def units(self) -> Vector:
        """[numbers]: for which Adam's rates are right."""

    @abstractmethod
    def numbers(self, values: Array) -> Vector:
        """[numbers]: those whose tensor is `values`, or near it."""

    @abstractmethod
    def tensor(self, numbers: Vector) -> Array:
        """The tensor of these numbers."""

    @abstractmethod
    def gradient(self, of_tensor: Array) -> Vector:
        """[numbers]: their gradient, from that of the tensor."""

    @abstractmethod
    def stored(self, numbers: Vector) -> Encoding:
        """How the weight with these numbers is stored."""


@dataclass(frozen=True, slots=True)
class Rounded(Weight):
    """Integers, one number each, in steps of their grid."""

    start: Affine
    most: int = 0
    """Their largest magnitude; 0: any."""
    fixed: bool = False
    """Whether the steps stay as they are."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.start.q.shape

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Of the integers."""
        return (-self.most, self.most) if self.most else None

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns, as the coder of integers sees them."""
        return matrix_view(self.shape, self.start.axis)

    def units(self) -> Vector:
        """[elements]: the steps."""
        steps = step_of(self.start.k).reshape(along_axis(self.start.q.ndim, self.start.axis))
        return np.broadcast_to(steps, self.start.q.shape).ravel()

    def by_step(self, of_elements: Vector) -> Vector:
        """[steps]: sums over the elements of each; nothing of those that stay."""
        if self.fixed:
            return np.zeros(self.start.k.size, np.float32)
        others = tuple(i for i in range(len(self.shape)) if i != self.start.axis or self.start.k.size == 1)
        return np.asarray(of_elements.reshape(self.shape).sum(others), np.float32).ravel()

    def numbers(self, values: Array) -> Vector:
        """[elements]."""
        return values.ravel()

    def tensor(self, numbers: Vector) -> Array:
        """The elements."""
        return numbers.reshape(self.shape)

    def gradient(self, of_tensor: Array) -> Vector:
        """[elements]: passed through the rounding."""
        return of_tensor.ravel()

    def stored(self, numbers: Vector) -> Affine:
        """The nearest integers."""
        q = np.rint(numbers / self.units()).astype(np.int32).reshape(self.shape)
        return replace(self.start, q=q)


@dataclass(frozen=True, slots=True)
class Floats(Weight):
    """Floats that stay floats."""

    start: Array
    masked: bool
    """Whether zeros stay so (Han et al. 2015): they are no numbers."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.start.shape

    def units(self) -> Vector:
        """[elements]: a part of their size."""
        return _part_of_size(self.numbers(self.start), _SHARE_OF_WEIGHT if self.start.ndim > 1 else _SHARE)

    def numbers(self, values: Array) -> Vector:
        """[elements]: without those that stay 0."""
        return np.asarray(values[self.start != 0] if self.masked else values.ravel(), np.float32)

    def tensor(self, numbers: Vector) -> Array:
        """With the zeros."""
        if not self.masked:
            return numbers.reshape(self.shape)
        values = np.zeros(self.shape, np.float32)
        values[self.start != 0] = numbers
        return values

    def gradient(self, of_tensor: Array) -> Vector:
        """[elements]: of those that are numbers."""
        return self.numbers(of_tensor)

    def stored(self, numbers: Vector) -> Raw:
        """As floats of their type."""
        return Raw(self.tensor(numbers).astype(self.start.dtype))


@dataclass(frozen=True, slots=True)
class Shared(Weight):
    """The values of a table, which many elements share. Zero stays zero."""

    start: Codebook

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.start.index.shape

    @property
    def _free(self) -> Mask:
        """[values of the table]: which are trained."""
        return np.asarray(self.start.table != 0)

    def units(self) -> Vector:
        """[values]: a part of their size."""
        return _part_of_size(self.start.table[self._free], _SHARE_OF_WEIGHT)

    def numbers(self, values: Array) -> Vector:
        """[values]: the mean of the elements that share each."""
        index, size = self.start.index.ravel(), len(self.start.table)
        sums = np.bincount(index, values.ravel(), size) / np.maximum(np.bincount(index, minlength=size), 1)
        return np.asarray(sums[self._free], np.float32)

    def tensor(self, numbers: Vector) -> Array:
        """Every element's value."""
        return np.asarray(self._table(numbers)[self.start.index])

    def gradient(self, of_tensor: Array) -> Vector:
        """[values]: the sum over the elements that share each (Han et al. 2016)."""
        sums = np.bincount(self.start.index.ravel(), of_tensor.ravel(), len(self.start.table))
        return np.asarray(sums[self._free], np.float32)

    def stored(self, numbers: Vector) -> Codebook:
        """The same indices into another table."""
        return replace(self.start, table=self._table(numbers).astype(self.start.table.dtype))

    def _table(self, numbers: Vector) -> Vector:
        table = np.zeros(len(self.start.table), np.float32)
        table[self._free] = numbers
        return table


@dataclass(frozen=True, slots=True)
class Scale(Weight):
    """Of a value that is rounded at run time: one number above 0."""

    start: Array
    grows: bool
    """Whether it may become larger than at first."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of a scalar."""
        return self.start.shape

    @property
    def bounds(self) -> tuple[float, float]:
        """A few times smaller or larger than at first."""
        return _SHARE_OF_SCALE / _FURTHEST, _SHARE_OF_SCALE * (_FURTHEST if self.grows else 1)

    def units(self) -> Vector:
        """[1]: a part of its size."""
        return np.asarray(self.start.reshape(1) / np.float32(_SHARE_OF_SCALE), np.float32)

    def numbers(self, values: Array) -> Vector:
        """[1]."""
        return values.reshape(1)

    def tensor(self, numbers: Vector) -> Array:
        """The scale."""
        return numbers.reshape(())

    def gradient(self, of_tensor: Array) -> Vector:
        """[1]."""
        return of_tensor.reshape(1)

    def stored(self, numbers: Vector) -> Raw:
        """As a float."""
        return Raw(numbers.reshape(()))


def _part_of_size(values: Array, share: float) -> Vector:
    """[values]: the same for all."""
    size = float(np.sqrt(np.square(values, dtype=np.float64).mean())) if values.size else 0.0
    return np.full(values.size, max(size / share, _LEAST), np.float32)
