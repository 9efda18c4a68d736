"""The weights that are trained: one vector, in units of the quantizers' steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from onnxopt.encoding import Affine, Array, Encoding, Raw, along_axis, matrix_view, step_of
from onnxopt.tuning.optimizer import Vector

_INSIDE = 0.35
"""Steps from an integer within which a weight starts that feedback has rounded to it: many would be at the edge of 0.5,
and go over it together."""
_SHARE = 16
"""Of the root mean square of a bias, the part that its unit is."""
_LEAST = 1e-4
"""Unit of a bias of zeros."""


@dataclass(frozen=True, slots=True)
class Weight:
    """One of them."""

    path: str
    start: Encoding
    """How it is stored before: integers and steps, or floats that stay floats."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor."""
        return self.start.values().shape

    @property
    def matrix(self) -> tuple[int, int]:
        """Rows and columns, as the coder of integers sees them."""
        return matrix_view(self.shape, self.start.axis if isinstance(self.start, Affine) else 0)

    def units(self) -> Vector:
        """[elements]: the steps; of floats, a part of their size, for which Adam's rates are right too."""
        if isinstance(self.start, Affine):
            steps = step_of(self.start.k).reshape(along_axis(self.start.q.ndim, self.start.axis))
            return np.broadcast_to(steps, self.start.q.shape).ravel()
        values = self.start.values().astype(np.float64)
        unit = max(float(np.sqrt(np.square(values).mean())) / _SHARE, _LEAST)
        return np.full(values.size, unit, np.float32)

    def stored(self, values: Vector) -> Encoding:
        """The weight with these elements, in units: integers where it is quantized."""
        if isinstance(self.start, Affine):
            return replace(self.start, q=np.rint(values).astype(np.int32).reshape(self.shape))
        return Raw((values * self.units()).reshape(self.shape).astype(self.start.values().dtype))


class Weights:
    """Masters: every trained weight as a float in units, of which the model sees the nearest integer.

    Rounded weights come first. Gradients pass the rounding as if it were the identity (the straight-through estimator,
    Bengio et al. 2013).

    Arguments:
        weights: what is trained, and where it starts.
        values: where the masters start, by path: the values themselves, or the nearest ones that round to the integers
            of `Weight.start` where `near` is set.
    """

    def __init__(self, weights: Sequence[Weight], values: Mapping[str, Array], near: bool) -> None:
        self._weights = sorted(weights, key=lambda one: not isinstance(one.start, Affine))
        ends = np.cumsum([0, *(prod(one.shape) for one in self._weights)])
        self._parts = list(itertools.starmap(slice, itertools.pairwise(ends)))
        self._units = np.concatenate([one.units() for one in self._weights])
        self.masters = np.concatenate([values[one.path].ravel() for one in self._weights]).astype(np.float32)
        self.masters /= self._units
        rounded = [one.start.q.ravel() for one in self._weights if isinstance(one.start, Affine)]
        self.matrices = [one.matrix for one in self._weights if isinstance(one.start, Affine)]
        """Rows and columns of each rounded weight."""
        self.rounded = self.masters[: sum(map(prod, self.matrices))]
        """The masters of rounded weights, a view."""
        if near and rounded:
            q = np.concatenate(rounded).astype(np.float32)
            np.clip(self.masters[: len(q)], q - _INSIDE, q + _INSIDE, out=self.rounded)

    def seen(self) -> dict[str, Array]:
        """What the model sees, by path."""
        values = self.masters.copy()
        np.rint(self.rounded, out=values[: len(self.rounded)])
        values *= self._units
        return self._by_path(values)

    def values(self) -> dict[str, Array]:
        """The masters as weights, by path."""
        return self._by_path(self.masters * self._units)

    def gradient(self, by_path: Mapping[str, Array]) -> Vector:
        """The gradient of the masters, from that of the weights."""
        found = np.concatenate([by_path[one.path].ravel() for one in self._weights])
        found *= self._units
        return found

    def stored(self) -> dict[str, Encoding]:
        """The weights as a file stores them."""
        return {one.path: one.stored(self.masters[part]) for one, part in zip(self._weights, self._parts, strict=True)}

    def _by_path(self, values: Vector) -> dict[str, Array]:
        return {one.path: values[part].reshape(one.shape) for one, part in zip(self._weights, self._parts, strict=True)}
