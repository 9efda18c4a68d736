"""The weights that are trained: one vector, in units of the quantizers' steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import log, prod

import numpy as np
import numpy.typing as npt

from onnxopt.encoding import STEPS_PER_OCTAVE, Array, Encoding
from onnxopt.tuning.kinds import Rounded, Weight
from onnxopt.tuning.optimizer import Vector

_INSIDE = 0.35
"""Steps from an integer within which a weight starts that feedback has rounded to it: many would be at the edge of 0.5,
and go over it together."""
_STEP = 0.3
"""Quarters of an octave that are a unit of a step. At 1, steps move so often that their weights do not follow."""
_OF_BITS = 0.5
"""Share of the gradient of the bits that steps get: with all of it, they grow before their weights could save bits."""
_OVER = 0.6
"""Quarters of an octave from where it is that a step has to be to be stored as another one. At 0.5, many would go back
and forth, and all their weights be rounded anew each time."""


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
