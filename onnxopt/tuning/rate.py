"""The bits of integers, as a function that has a gradient."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt

from onnxopt.tuning.optimizer import Vector

_UNSEEN = 0.5
"""What an integer counts that has not come up, two of which lie beyond either end of a histogram."""
_CLASSES, _LEAST = 16, 512
"""Of a weight's elements, at most; and elements for each, at least."""
_OCTAVE = 0.5
"""Octaves of the level that make a class."""

Integers = npt.NDArray[np.int32]


class Rate:
    """Code lengths ``-log2 p(q)`` of the integers of each weight, p their histogram when the codes were last made.

    The coder knows a matrix's busy rows and columns. So elements have a *level*, the magnitudes of their row times
    those of their column, and those of like levels have a histogram together. A weight in a quiet row then costs more,
    and rows become empty.

    Between neighbouring integers, the length is a line. So it has a gradient, ``bits(q + 1) - bits(q)`` for one step of
    the weight, which moves weights towards frequent integers.

    Arguments:
        shapes: rows and columns of each weight, as the coder sees it.
    """

    def __init__(self, shapes: Sequence[tuple[int, int]]) -> None:
        self._shapes = list(shapes)
        ends = np.cumsum([0, *map(prod, shapes)])
        self._parts = list(itertools.starmap(slice, itertools.pairwise(ends)))
        self._first = np.zeros(ends[-1], np.int32)
        """Of each element, where 0 stands in the table."""
        self._bits = self._slopes = np.zeros(0, np.float32)

    def learn(self, masters: Vector) -> None:
        """Makes the codes from the integers of all weights, ``masters[elements]`` in steps."""
        whole, tables, begin = np.rint(masters).astype(np.int32), list[Vector](), 0
        for part, shape in zip(self._parts, self._shapes, strict=True):
            q = whole[part]
            low, classes = int(q.min()) - 2, _classes(q.reshape(shape))
            width = int(q.max()) - low + 3
            number = int(classes.max()) + 1
            first = classes.ravel() * width
            counts = np.bincount(first + (q - low), minlength=number * width).reshape(number, width) + _UNSEEN
            tables.append(np.asarray(-np.log2(counts / counts.sum(1, keepdims=True)), np.float32).ravel())
            self._first[part] = first + (begin - low)
            begin += number * width
        if not tables:
            return
        self._bits = np.concatenate(tables)
        self._slopes = np.diff(self._bits)

    def bits(self, masters: Vector) -> float:
        """Bits of all integers."""
        return float(self._taken(self._bits, np.rint(masters)).sum(dtype=np.float64))

    def gradient(self, masters: Vector) -> Vector:
        """Bits that one step more adds to each weight."""
        return self._taken(self._slopes, np.floor(masters))

    def cheaper(self, masters: Vector) -> tuple[Vector, Vector]:
        """The move of each integer by which it saves most bits, -1 or 1, and the bits; below 0 where both cost some."""
        q = np.rint(masters)
        now, down, up = (self._taken(self._bits, q + move) for move in (0, -1, 1))
        return np.where(down < up, np.float32(-1), np.float32(1)), now - np.minimum(down, up)

    def _taken(self, table: Vector, integers: Vector) -> Vector:
        where = integers.astype(np.int32)
        where += self._first
        return np.asarray(np.take(table, where, mode="clip"))


def _classes(q: Integers) -> Integers:
    """[rows, columns]: the class of each element."""
    most = min(_CLASSES, q.size // _LEAST)
    if most <= 1:
        return np.zeros(q.shape, np.int32)
    magnitude = np.abs(q)
    rows, columns = magnitude.sum(1, keepdims=True), magnitude.sum(0, keepdims=True)
    product = np.asarray((rows - magnitude + 1) * (columns - magnitude + 1), np.float32)  # an element tells not itself
    level = np.log2(product) / np.float32(_OCTAVE)
    level -= level.max()
    return np.asarray(np.clip(most - 1 + np.rint(level), 0, most - 1), np.int32)
