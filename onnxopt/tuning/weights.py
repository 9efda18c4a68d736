"""The weights that are trained: one vector, in units of the quantizers' steps."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, prod

import numpy as np
import numpy.typing as npt

from onnxopt.encoding import (
    STEPS_PER_OCTAVE,
    Affine,
    Array,
    Codebook,
    Encoding,
    Mask,
    Raw,
    along_axis,
    matrix_view,
    step_of,
)
from onnxopt.tuning.optimizer import Vector

_INSIDE = 0.35
"""Steps from an integer within which a weight starts that feedback has rounded to it: many would be at the edge of 0.5,
and go over it together."""
_SHARE, _SHARE_OF_WEIGHT, _SHARE_OF_SCALE = 16, 8, 4
"""Of the root mean square of a bias, of pruned or shared weights, and of the scale of a range, the part that its unit
is."""
_LEAST = 1e-4
"""Unit of a bias of zeros."""
_STEP = 0.3
"""Quarters of an octave that are a unit of a step. At 1, steps move so often that their weights do not follow."""
_OF_BITS = 0.5
"""Share of the gradient of the bits that steps get: with all of it, they grow before their weights could save bits."""
_OVER = 0.6
"""Quarters of an octave from where it is that a step has to be to be stored as another one. At 0.5, many would go back
and forth, and all their weights be rounded anew each time."""
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


class Weights:
    """Masters: every trained number as a float in units. Of rounded weights, the model sees the nearest integer.

    Rounded weights come first. Gradients pass the rounding as if it were the identity (the straight-through estimator,
    Bengio et al. 2013). Their steps come last, as quarters of an octave from where they began: as files hold them, the
    model sees a whole number of those. A step s of weights w has the gradient of ``s round(w / s)`` in the same sense,
    ``round(w / s) - w / s`` for each (learned step sizes, Esser et al. 2020), and that of the bits of ``w / s``.

    Arguments:
        weights: what is trained, and where it starts.
        values: where the masters start, by path: the values themselves, or the nearest ones that round to the integers
            of `Rounded.start` where `near` is set.
    """

    def __init__(self, weights: Sequence[Weight], values: Mapping[str, Array], near: bool) -> None:
        self._weights = sorted(weights, key=lambda one: not isinstance(one, Rounded))
        rounded = [one for one in self._weights if isinstance(one, Rounded)]
        units = [one.units() for one in self._weights]
        ends = np.cumsum([0, *map(len, units)])
        self._parts = list(itertools.starmap(slice, itertools.pairwise(ends)))
        self._units = np.concatenate(units)
        self._begun = [one.start.k for one in rounded]
        ends = len(self._units) + np.cumsum([0, *map(len, self._begun)])
        self._steps = list(itertools.starmap(slice, itertools.pairwise(ends)))
        numbers = [one.numbers(values[one.path]) for one in self._weights]
        self.masters = np.concatenate([*numbers, *map(np.zeros_like, self._begun)]).astype(np.float32)
        self.masters[: len(self._units)] /= self._units
        self.squares = np.zeros_like(self.masters)
        """Of their gradients, the means of late, once they are trained."""
        self.layers = max(1, sum(len(one.shape) > 1 for one in self._weights))
        """Weights that are no vectors."""
        self.matrices = [one.matrix for one in rounded]
        """Rows and columns of each rounded weight."""
        self.rounded = self.masters[: sum(map(prod, self.matrices))]
        """The masters of rounded weights, a view."""
        self._bounds = [(part, one.bounds) for one, part in zip(self._weights, self._parts, strict=True) if one.bounds]
        if near and rounded:
            q = np.concatenate([one.start.q.ravel() for one in rounded]).astype(np.float32)
            np.clip(self.rounded, q - _INSIDE, q + _INSIDE, out=self.rounded)

    def settle(self) -> None:
        """Takes up steps that have moved, which changes masters but not weights, and moves masters back that are out of
        their bounds."""
        for index, (begun, part) in enumerate(zip(self._begun, self._steps, strict=True)):
            wanted, now = _STEP * self.masters[part], self._rounded(index).start.k - begun
            self._take(index, begun + np.where(np.abs(wanted - now) > _OVER, np.rint(wanted), now).astype(np.int16))
        for part, (least, most) in self._bounds:
            np.clip(self.masters[part], least, most, out=self.masters[part])

    @property
    def steps(self) -> Vector:
        """[all steps]: quarters of an octave that they have moved."""
        moved = (self._rounded(index).start.k - begun for index, begun in enumerate(self._begun))
        return np.concatenate([np.zeros(0, np.float32), *moved]).astype(np.float32)

    def restore(self, masters: Vector, steps: Vector | None = None) -> None:
        """Goes back to other masters, and to other steps or to where they began."""
        first = len(self._units)
        for index, (begun, part) in enumerate(zip(self._begun, self._steps, strict=True)):
            moved = 0 if steps is None else steps[part.start - first : part.stop - first].astype(np.int16)
            self._take(index, begun + moved)
        self.masters[:] = masters

    def seen(self) -> dict[str, Array]:
        """What the model sees, by path."""
        return self._by_path(self._seen())

    def values(self) -> dict[str, Array]:
        """The masters as weights, by path."""
        return self._by_path(self.masters[: len(self._units)] * self._units)

    def gradient(self, by_path: Mapping[str, Array], of_bits: Vector | None = None) -> Vector:
        """The gradient of the masters, from that of the weights.

        Arguments:
            of_bits: [rounded masters], what is to be added to theirs.
        """
        found = np.concatenate([one.gradient(by_path[one.path]) for one in self._weights])
        found *= self._units
        own = found[: len(self.rounded)]
        of_steps = own * (np.rint(self.rounded) - self.rounded)
        if of_bits is not None:
            own += of_bits
            of_steps -= np.float32(_OF_BITS) * of_bits * self.rounded
        of_steps *= np.float32(_STEP * log(2) / STEPS_PER_OCTAVE)
        sums = (self._rounded(i).by_step(of_steps[self._parts[i]]) for i in range(len(self._begun)))
        return np.concatenate([found, *sums])

    def stored(self) -> dict[str, Encoding]:
        """The weights as a file stores them."""
        values = self._seen()
        return {one.path: one.stored(values[part]) for one, part in zip(self._weights, self._parts, strict=True)}

    def _rounded(self, index: int) -> Rounded:
        one = self._weights[index]
        assert isinstance(one, Rounded)
        return one

    def _take(self, index: int, k: npt.NDArray[np.int16]) -> None:
        """Stores a weight with other steps."""
        one, part = self._rounded(index), self._parts[index]
        if (k != one.start.k).any():
            self._weights[index] = now = replace(one, start=replace(one.start, k=k))
            units = now.units()
            self.masters[part] *= self._units[part] / units
            self._units[part] = units

    def _seen(self) -> Vector:
        values = self.masters[: len(self._units)].copy()
        np.rint(self.rounded, out=values[: len(self.rounded)])
        values *= self._units
        return values

    def _by_path(self, numbers: Vector) -> dict[str, Array]:
        return {one.path: one.tensor(numbers[part]) for one, part in zip(self._weights, self._parts, strict=True)}
