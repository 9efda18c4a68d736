"""The laws of each input of a model, as far as its graph, its shapes and its names tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from onnxopt.data.first_layer import spread_told
from onnxopt.data.hints import Hints
from onnxopt.data.inputs import Input, known
from onnxopt.data.laws import (
    SHAPES,
    Array,
    At,
    Codes,
    Law,
    Leaves,
    Lengths,
    Mask,
    Positions,
    Signal,
    Texts,
    Tokens,
    Writing,
    codes_near,
)

_LEAST_SIDE, _LONGEST = 8, 4
"""Pixels of an image's side, at least, and the ratio of its sides, at most."""
_IMAGE_TYPES = ("float32", "float16", "float64", "uint8")
_PIXELS = 16.0
"""Spread of a first layer's input from which on it takes pixels of 0..255 as they are."""
_SCALES = (("white", 1.0, 0.0), ("smooth", 1.0, 0.0), ("heavy", 1.0, 0.0), ("smooth", 0.03, 0.0), ("white", 0.25, 0.5))
"""Shape, spread and offset of signals whose scale nothing tells: features, waves of -1..1, shares of 0..1."""
_POSITIONS = 512
"""Rows that positions count to where no table bounds them."""
_COUNTS = tuple(range(10))
"""Integers that nothing tells anything of."""


def channel_axis(shape: Sequence[int | str | None]) -> int | None:
    """Axis of the channels, 1 or 3, if a value of this shape may be images; else None."""
    if len(shape) != 4:
        return None
    for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] in (1, 3) and all(not isinstance(s, int) or not known(s) or s >= _LEAST_SIDE for s in sides):
            return axis
    return None


def may_be_images(entry: Input, hints: Hints) -> bool:
    """Whether an input has the shape and the type of images, and the graph filters it."""
    shaped = str(entry.dtype) in _IMAGE_TYPES and channel_axis(entry.shape) is not None
    return shaped and (hints.filtered(entry.name) or not hints.known(entry.name))


def surely_images(shape: tuple[int, ...]) -> bool:
    """Whether values of this shape are photographs or drawings.

    Grey ones that are not square may be spectra, and long ones with three channels paths of points.
    """
    axis = channel_axis(shape)
    sides = [size for i, size in enumerate(shape) if i not in (0, axis)]
    return axis is not None and max(sides) <= (_LONGEST if shape[axis] == 3 else 1) * min(sides)


def trial_law(entry: Input, hints: Hints) -> Law:
    """A law for finding out with which shapes the model runs."""
    if entry.dtype is not None and entry.dtype.kind == "O":
        return Texts()
    if entry.dtype is not None and entry.dtype.kind in "iub" and str(entry.dtype) != "uint8":
        return integer_laws(entry, hints)[0]
    factor, offset = hints.scale(entry.name)
    return Signal("white", entry.dtype or np.dtype(np.float32), factor, offset)


def integer_laws(entry: Input, hints: Hints) -> tuple[Law, ...]:
    """Laws of an input of integers or booleans."""
    name, dtype = entry.name.lower(), entry.dtype
    assert dtype is not None
    rows, compared = hints.rows(entry.name), hints.compared(entry.name)
    if "position" in name or "pos_id" in name:
        return (Positions(rows or _POSITIONS, dtype),)
    if rows is not None:
        return Tokens(rows, dtype), Tokens(rows, dtype, frequent=True)
    if dtype.kind == "b" or "mask" in name:
        return (Mask(dtype),)
    if compared:
        return (Codes(codes_near(compared, dtype), dtype),)
    if "len" in name and len(entry.shape) < 2:
        return (Lengths(dtype),)
    if len(entry.shape) < 2:
        return (Codes((1, 0), dtype),)
    limits = np.iinfo(dtype)
    if limits.bits == 8:
        return tuple(Signal(shape, dtype, 64.0, (float(limits.min) + float(limits.max)) / 2) for shape in SHAPES)
    return Codes((0, 1), dtype), Codes(_COUNTS, dtype)


def laws_of(entry: Input, hints: Hints, shape: tuple[int, ...], batches: int) -> tuple[Law, ...]:
    """The laws of an input.

    Arguments:
        shape: of a batch.
        batches: of all laws together.
    """
    dtype, axis = entry.dtype, channel_axis(shape)
    assert dtype is not None
    if dtype.kind == "O":
        return (Texts(),)
    images = axis is not None and may_be_images(entry, hints)
    if dtype.kind in "iub" and not images:
        return integer_laws(entry, hints)
    factor, offset = hints.scale(entry.name)
    told: Sequence[tuple[str, float, float]] = [(name, factor, offset) for name in SHAPES]
    pixels = False
    if (factor, offset) == (1.0, 0.0):
        found = spread_told(hints, entry.name, _probe(shape, dtype, axis if images else None))
        pixels = found is not None and found > _PIXELS
        told = _SCALES if found is None else [(name, found, 0.0) for name in SHAPES]
    signals = tuple(Signal(name, dtype, spread, offset) for name, spread, offset in told)
    if not images or axis is None:
        return signals
    leaves = Leaves(dtype, batches * shape[0], shape, axis, None if pixels else (factor, offset))
    if surely_images(shape):
        return (leaves,)
    # Colours are no spectra: an image that is long may be a line of writing.
    writing = (Writing(dtype, axis, leaves.scale),) if shape[axis] == 3 else ()
    return (leaves, *writing, *signals)


def _probe(shape: tuple[int, ...], dtype: np.dtype[np.generic], axis: int | None) -> Callable[[], Array]:
    """Draws a batch of variance 1: images where the axis of channels is known, else white noise."""
    law: Law = Signal("white", dtype) if axis is None else Leaves(dtype, shape[0], shape, axis)
    return lambda: law.draw(np.random.default_rng(0), shape, At())
