"""Sums of products of a layer's inputs: of all pairs, or of each input with itself.

Both kinds take the same calls. Inputs are float32 ``[groups, vectors, inputs]``, sums are float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod

import numpy as np

from onnxopt.calibration.cache import Cache
from onnxopt.calibration.stats import Floats
from onnxopt.encoding import Array
from onnxopt.files import Mapped

_BLOCK = 256
"""Rows of a matrix that are kept, and updated, at a time."""
_LARGE = 2**22
"""Bytes of sums that are worth a file."""


class Pairs:
    """Sums over all pairs. The matrix is symmetric to the last bit, so only blocks of rows from the diagonal on are
    kept: of large matrices this is half, and every shard has its own."""

    def __init__(self, groups: int, inputs: int) -> None:
        self._groups, self._inputs = groups, inputs
        self._sums: Floats = np.zeros(sum(prod(shape) for _, shape in self._shapes()))
        self._mapped: Mapped | None = None

    @staticmethod
    def size(groups: int, inputs: int) -> int:
        """Bytes of the sums."""
        return 8 * groups * inputs * (inputs + min(inputs, _BLOCK)) // 2

    def add(self, rows: Array) -> None:
        """Adds the products of these vectors."""
        # Of one group: one array twice, for which numpy calls BLAS's syrk.
        product = (rows[0].T @ rows[0])[None] if len(rows) == 1 else rows.swapaxes(1, 2) @ rows
        for i, own in self._blocks():
            np.add(own, product[:, i : i + _BLOCK, i:], out=own)

    def include(self, later: Pairs | Squares, scale: float, half: Floats, off: Floats) -> None:
        """Adds sums of vectors ``x - b`` to these of ``x - a``; ``x - a = (x - b) + off``.

        Arguments:
            scale: a factor of the vectors of `later`.
            half: their total, and half their number times `off`, ``[groups, inputs]``.
        """
        assert isinstance(later, Pairs)
        for (i, own), (_, more) in zip(self._blocks(), later._blocks(), strict=True):
            np.add(own, more if scale == 1 else more * scale**2, out=own)
            for into, u, v in zip(own, half, off, strict=True):
                np.add(into, u[i : i + _BLOCK, None] * v[i:] + v[i : i + _BLOCK, None] * u[i:], out=into)

    def set_aside(self, cache: Cache) -> None:
        """Leaves large sums in a file until they are used again."""
        if self._sums.nbytes < _LARGE:
            return
        if self._mapped is None:
            self._mapped = cache.mapped(self._sums)
            self._sums = self._mapped.values
        self._mapped.rest()

    def averaged(self, count: int, about: Sequence[tuple[int, Floats]]) -> Floats:
        """The sums over `count` and, for each sign and vector m of `about`, plus or minus m m^T:
        ``[groups, inputs, inputs]``. The sums are used up."""
        found = np.empty((self._groups, self._inputs, self._inputs))
        for i, own in self._blocks():
            np.divide(own, count, out=own)
            for sign, vectors in about:
                for into, vector in zip(own, vectors, strict=True):
                    np.add(into, sign * (vector[i : i + _BLOCK, None] * vector[i:]), out=into)
            found[:, i : i + _BLOCK, i:] = own
            found[:, i:, i : i + _BLOCK] = own.swapaxes(1, 2)
        self._sums = np.zeros(0)
        return found

    def _shapes(self) -> Iterator[tuple[int, tuple[int, int, int]]]:
        """The first row of each block, and its shape."""
        for i in range(0, self._inputs, _BLOCK):
            yield i, (self._groups, min(_BLOCK, self._inputs - i), self._inputs - i)

    def _blocks(self) -> Iterator[tuple[int, Floats]]:
        """The first row of each block, and its sums."""
        start = 0
        for i, shape in self._shapes():
            yield i, self._sums[start : start + prod(shape)].reshape(shape)
            start += prod(shape)


class Squares:
    """Sums over each input alone; see `Pairs` for the calls."""

    def __init__(self, groups: int, inputs: int) -> None:
        self._sums: Floats = np.zeros((groups, inputs))

    def add(self, rows: Array) -> None:
        """Adds the squares of these vectors."""
        self._sums += np.square(rows, dtype=np.float64).sum(1)

    def include(self, later: Pairs | Squares, scale: float, half: Floats, off: Floats) -> None:
        """Adds the sums of others; see `Pairs.include`."""
        assert isinstance(later, Squares)
        self._sums += later._sums if scale == 1 else later._sums * scale**2
        self._sums += 2 * half * off

    def set_aside(self, cache: Cache) -> None:
        """They are small."""

    def averaged(self, count: int, about: Sequence[tuple[int, Floats]]) -> Floats:
        """The sums over `count`, about vectors; see `Pairs.averaged`: ``[groups, inputs]``."""
        self._sums /= count
        for sign, vectors in about:
            self._sums += sign * np.square(vectors)
        return self._sums
