"""How much a model's outputs differ from another's: noise over signal of numbers, agreement of labels.

Everything that decides whether outputs are the same uses these functions. They fail closed: what cannot be compared is
None, "not measured", and never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from onnxopt.data import Array

_AT_ONCE = 1 << 20
"""Elements of a value that are looked at together."""
_ALIKE = 1e-6
"""Share of the power, below which columns hold the same but for rounding."""


def output_error(wanted: Sequence[Any], got: Sequence[Any], classes: Sequence[int | None] = ()) -> float | None:
    """Noise over signal (root mean square) of float values, the mean over values.

    A position counts as noise as large as the signal where only one of the values is infinite or NaN, or the infinities
    differ; where both are the same, it does not count. The same holds for every position that differs from a signal
    that is 0 everywhere. Another shape is an infinite error. Values that are empty, or that hold no float at all (see
    `agreement`), say nothing. Elements of sequences and maps count together.

    Outputs ``[n, k]`` may be scores, which count relative to each other: of their noise over signal with and without
    the mean of each row, the larger counts.

    Arguments:
        wanted: the original's values: arrays, or what the runtime gives for sequences and maps.
        got: the other model's, in the same order.
        classes: for each value, the axis of scores that count only relative to each other, as before an ArgMax, or
            None. A common shift of these has no effect.

    Returns None if no value says anything.
    """
    powers = []
    for index, (a, b) in enumerate(zip(wanted, got, strict=True)):
        power = _power(_floats(a), _floats(b), classes[index] if index < len(classes) else None)
        if power is not None:
            powers.append(power)
    return float(np.sqrt(np.mean(powers))) if powers else None


def agreement(wanted: Sequence[Any], got: Sequence[Any]) -> float | None:
    """Share of the integers, truth values and texts that are equal, 0 to 1, the least over values; None without any.

    Elements of sequences, and keys of maps, count as those of one array.
    """
    shares = []
    for a, b in zip(wanted, got, strict=True):
        share = _share(_labels(a), _labels(b))
        if share is not None:
            shares.append(share)
    return min(shares, default=None)


def _power(wanted: list[Array], got: list[Array], classes: int | None) -> float | None:
    """Noise over signal, in power, of the parts of one value; None if the parts say nothing."""
    if [a.shape for a in wanted] != [b.shape for b in got]:
        return float("inf")
    noise, signal, wrong, differing, elements = 0.0, 0.0, 0, 0, 0
    for a, b, axis in (piece for pair in zip(wanted, got, strict=True) for piece in _pieces(*pair, classes)):
        x, y = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            wrong += int((~finite & (x != y) & ~(np.isnan(x) & np.isnan(y))).sum())
            x, y = np.where(finite, x, 0.0), np.where(finite, y, 0.0)
        error = y - x
        if axis is not None:
            error, x = (part - part.mean(axis, keepdims=True) for part in (error, x))
        noise += float(np.square(error).sum())
        signal += float(np.square(x).sum())
        differing += int(np.count_nonzero(error))
        elements += int(finite.sum())
    every = elements + wrong
    if not every:
        return None
    if signal > 0:
        return max(noise / signal, _between_columns(wanted, got, signal)) + wrong / every
    return (differing + wrong) / every if differing or wrong else None


def _pieces(a: Array, b: Array, classes: int | None) -> Iterator[tuple[Array, Array, int | None]]:
    """A few rows of large values at a time, as copies in float64 are larger still; and the axis of classes in them.
    Whole values where classes are along another axis than rows are."""
    if a.size <= _AT_ONCE or classes not in (None, -1, a.ndim - 1):
        yield a, b, classes
        return
    rows, others = (one.reshape(-1, a.shape[-1]) for one in (a, b))
    step = max(1, _AT_ONCE // a.shape[-1])
    for at in range(0, len(rows), step):
        yield rows[at : at + step], others[at : at + step], None if classes is None else -1


def _between_columns(wanted: list[Array], got: list[Array], signal: float) -> float:
    """Noise over signal, in power, of what differs between the columns of ``[n, k]``; 0 for anything else.

    Scores with a large common part hide noise behind it, so that classes change: SqueezeNet 1.1 loses two points.
    """
    if len(wanted) != 1 or wanted[0].ndim != 2 or wanted[0].shape[1] < 2:
        return 0.0
    x, y = (part[0].astype(np.float64) for part in (wanted, got))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        return 0.0
    x, error = (part - part.mean(1, keepdims=True) for part in (x, y - x))
    power = float(np.square(x).sum())
    return float(np.square(error).sum()) / power if power > _ALIKE * signal else 0.0


def _share(wanted: list[Array], got: list[Array]) -> float | None:
    """Share of equal elements among the parts of one value. Where shapes differ, no element counts as equal."""
    elements = max(sum(part.size for part in parts) for parts in (wanted, got))
    if not elements:
        return None
    if [a.shape for a in wanted] != [b.shape for b in got]:
        return 0.0
    return sum(int(np.sum(a == b)) for a, b in zip(wanted, got, strict=True)) / elements


def _floats(value: Any) -> list[Array]:
    return [part for part in _parts(value) if part.dtype.kind == "f"]


def _labels(value: Any) -> list[Array]:
    return [part for part in _parts(value) if part.dtype.kind != "f"]


def _parts(value: Any) -> Iterator[Array]:
    """The arrays in an output: itself, the elements of a sequence, keys and values of a map."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, dict):
        yield np.asarray(list(value), object if any(isinstance(key, str) for key in value) else None)
        yield from _parts(list(value.values()))
    elif isinstance(value, list | tuple):
        if value and not any(isinstance(part, (np.ndarray, dict, list, tuple)) for part in value):
            yield np.asarray(value, object if any(isinstance(part, str) for part in value) else None)
        else:
            for part in value:
                yield from _parts(part)
    elif value is not None:
        yield np.asarray(value)
