"""One-dimensional clustering of weights: k-means, entropy-constrained scalar quantization, evenly spaced borders.

Clusters on a line are intervals. So weights are counted once in fine bins, and an iteration reads prefix sums at the
borders of the clusters: its time does not depend on the number of weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Init = Literal["linear", "random", "density"]

BINS = 2**16
_CLASSES_AN_OCTAVE, _OCTAVES = 2, 16
"""Classes of importance: the weights of a class share the borders for its mean importance. Importances are at least
this many octaves below the largest."""
_PIECE = 2**22
"""Weights processed at a time, which bounds the memory for temporaries."""
_BODY = 16.0
"""Bins are even up to the mean magnitude over this, then grow with the magnitude, so that far tails take few bins."""
_SWEEPS = 300
_TINY = float(np.finfo(np.float32).tiny)
_CONVERGED = 1e-6
"""Relative gain of a sweep at which the iteration stops."""


@dataclass(frozen=True, slots=True)
class _Bins:
    """Prefix sums over the weights in bins, by class of importance."""

    centres: Floats
    """[bins], increasing"""
    sums: Floats
    """[4, classes, bins + 1]: count of weights, and sums of h, ``h w`` and ``h w^2``, over all bins before each"""
    importance: Floats
    """[classes]: mean importance"""
    cell: npt.NDArray[np.int32]
    """[weights]: ``class * bins + bin``"""


def cluster(
    w: Floats, k: int, h: npt.ArrayLike = 1.0, price: float = 0.0, init: Init = "linear"
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Clusters weights: the indices (in w's shape) and values that minimize ``sum h (w - value)^2``.

    With a price, the objective is ``sum h (w - value)^2 + price * bits``, where a value that a share p of the weights
    has costs ``-log2 p`` bits (ECSQ: Chou, Lookabaugh & Gray 1989; for weights, with h the diagonal of the Hessian:
    Choi, El-Khamy & Lee 2016). Zero weights stay zero and count for the bits; with a price, others may become zero.
    Values that no weight has are dropped, so there may be fewer than k. Lloyd's iteration finds a local minimum, and
    the same one for the same weights.

    Arguments:
        w: finite.
        k: most values, at least 2; zero is among them if a weight is zero.
        h: importance of an error: not negative, broadcast to w's shape.
        price: of a bit, in units of ``h w^2``.
        init: initial values: evenly spaced over the range (as in Deep Compression, which keeps large weights), random
            weights, or quantiles.
    """
    nonzero = w != 0
    zeros = w.size - int(np.count_nonzero(nonzero))
    kept = w[nonzero]
    index = np.zeros(w.shape, np.int32)
    if not kept.size:
        return index, np.zeros(1)
    few = _distinct(kept, k - bool(zeros)) if price == 0 else None
    if few is not None:
        table, found = few, np.searchsorted(few, kept).astype(np.int32)
    else:
        peak = float(np.abs(kept).max())
        kept /= peak  # at most 1, so that nothing overflows
        weights = np.broadcast_to(np.asarray(h, np.float32), w.shape)[nonzero]
        weights = np.maximum(weights, max(float(weights.max()) * 2.0**-_OCTAVES, _TINY))
        bins = _bins(kept, weights, bool(price))
        table, owner = _lloyd(bins, _start(bins, kept, k - bool(zeros), init), 0.0, 0)
        if price:  # warm start: up to a twelfth better than a cold start, and never worse than without a price
            table, owner = _lloyd(bins, table, price / peak**2, zeros)
        table, found = table * peak, owner.reshape(-1)[bins.cell]
    if zeros and not (table == 0).any():
        table = np.append(table, 0.0)
    index[nonzero] = found
    if zeros:
        index[~nonzero] = int(np.flatnonzero(table == 0)[0])
    return index, table


def even(w: Floats, k: int, step: float, h: npt.ArrayLike = 1.0) -> tuple[npt.NDArray[np.int32], Floats]:
    """Clusters between borders that are `step` apart: indices and values as in `cluster`.

    An entropy-coded uniform quantizer is within a quarter bit of the limit at high rates (Gish & Pierce 1968); values
    at the means instead of the midpoints recover part of that at low rates (Choi, El-Khamy & Lee 2016). Weights within
    half a step of zero become zero.

    Arguments:
        w: finite.
        k: most values, at least 3; the step is enlarged if there would be more.
        step: above 0.
        h: importance of a weight in the means: not negative, broadcast to w's shape.
    """
    sides = (k - 1) // 2
    step = max(step, float(np.abs(w).max()) / (sides + 0.5))
    cells, index = np.unique(np.clip(np.rint(w / step), -sides, sides), return_inverse=True)
    index = index.reshape(-1)
    weights = np.broadcast_to(np.asarray(h, np.float64), w.shape).ravel()
    weights = np.maximum(weights, max(float(weights.max()) * 2.0**-_OCTAVES, _TINY))
    table = np.bincount(index, weights * w.ravel()) / np.bincount(index, weights)
    table[cells == 0] = 0
    return index.reshape(w.shape).astype(np.int32), table


def _distinct(w: Floats, k: int) -> Floats | None:
    """The sorted distinct values if there are at most k, else None."""
    if len(np.unique(w[:_PIECE:64])) > k or len(values := np.unique(w)) > k:
        return None
    return values


def _bins(w: Floats, h: npt.NDArray[np.float32], classes: bool) -> _Bins:
    """Bins the weights ``w[n]``, in classes by their importances ``h[n]`` or all in one class."""
    body = float(np.abs(w).mean()) / _BODY
    low, high = (float(np.arcsinh(edge / body)) for edge in (w.min(), w.max()))
    scale = (BINS - 1) / max(high - low, _TINY)
    levels = np.log2([h.min(), h.max()]) * _CLASSES_AN_OCTAVE
    first = round(float(levels[0]))
    count = round(float(levels[1])) - first + 1 if classes else 1
    cell = np.empty(len(w), np.int32)
    sums = np.zeros((4, count, BINS))
    for at in range(0, len(w), _PIECE):
        x, y = w[at : at + _PIECE], h[at : at + _PIECE].astype(np.float64)
        where = np.rint((np.arcsinh(x / body) - low) * scale).astype(np.int32)
        if classes:
            where += (np.rint(np.log2(y) * _CLASSES_AN_OCTAVE).astype(np.int32) - first) * BINS
        cell[at : at + _PIECE] = where
        parts = [np.bincount(where, part, minlength=count * BINS) for part in (None, y, y * x, y * x * x)]
        sums += np.reshape(parts, sums.shape)
    nominal = 2.0 ** ((first + np.arange(count)) / _CLASSES_AN_OCTAVE)
    importance = np.divide(sums[1].sum(1), sums[0].sum(1), out=nominal, where=sums[0].any(1))
    running = np.concatenate([np.zeros((4, count, 1)), np.cumsum(sums, 2)], 2)
    centres = np.sinh(np.arange(BINS) / scale + low) * body
    return _Bins(centres, running, importance, cell)


def _start(bins: _Bins, w: Floats, k: int, init: Init) -> Floats:
    """Initial values, distinct and increasing."""
    if init == "linear":
        return np.unique(np.linspace(w.min(), w.max(), k))
    if init == "random":
        return np.unique(w[np.random.default_rng(0).integers(len(w), size=k)])
    below = bins.sums[0, :, 1:].sum(0) / len(w)
    return np.unique(bins.centres[np.searchsorted(below, (np.arange(k) + 0.5) / k)])


def _lloyd(bins: _Bins, values: Floats, price: float, zeros: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """The values, and the index of every bin's value ``[classes, bins]``."""
    pinned = bool(zeros and price)  # only a price lets other weights become zero
    if pinned:
        values = np.unique(np.append(values, 0.0))
    total = float(bins.sums[0, :, -1].sum()) + zeros
    bits = np.zeros(len(values))
    before = np.inf
    for _ in range(_SWEEPS):
        order = np.argsort(values)  # classes of different importance can change the order
        values, bits = values[order], bits[order]
        borders = _borders(bins, values, price * bits)
        counts, weight, moment, square = np.diff(_at(bins.sums, borders)).sum(1)
        counts = counts + zeros * (values == 0) if pinned else counts
        used = counts > 0
        borders = borders[:, np.append(used, True)]
        values, counts, weight, moment, square = (a[used] for a in (values, counts, weight, moment, square))
        values = np.where((values == 0) & pinned, 0.0, moment / np.where(weight > 0, weight, 1))
        bits = -np.log2(counts / total)
        errors = square + values * (values * weight - 2 * moment)  # a sum for each value: precise beside far weights
        cost = float(errors.sum() + price * (bits * counts).sum())
        if before - cost <= _CONVERGED * abs(cost):
            break
        before = cost
    owner = np.empty((len(bins.importance), BINS), np.int32)
    for row, border in zip(owner, borders, strict=True):
        row[:] = np.repeat(np.arange(len(values)), np.diff(border))
    return values, owner


def _borders(bins: _Bins, values: Floats, cost: Floats) -> npt.NDArray[np.int64]:
    """[classes, values + 1]: the first bin of each value, and the end; a value that is never the best has no bins.

    Of two values ``a < b``, the second is better for ``w > (a + b) / 2 + (cost_b - cost_a) / (2 h (b - a))``.
    """
    gaps = values - values[:, None]
    upper = np.triu(np.ones(gaps.shape, np.bool_), 1)
    safe = np.where(upper, np.maximum(gaps, _TINY), 1.0)
    middle, tilt = (values + values[:, None]) / 2, (cost - cost[:, None]) / (2 * safe)
    borders = np.empty((len(bins.importance), len(values) + 1), np.int64)
    for row, h in zip(borders, bins.importance, strict=True):
        better = middle + tilt / h
        first = np.where(upper, better, -np.inf).max(0)
        last = np.where(upper, better, np.inf).min(1)
        start = np.where(first < last, first, np.inf)
        start = np.minimum.accumulate(start[::-1])[::-1]  # one that is never best starts with the next
        row[:-1] = np.searchsorted(bins.centres, start)
        row[0], row[-1] = 0, len(bins.centres)
    return borders


def _at(sums: Floats, borders: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """[4, classes, values + 1]"""
    return np.take_along_axis(sums, borders[None], 2)
