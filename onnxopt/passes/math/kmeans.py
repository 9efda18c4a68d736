"""One-dimensional clustering of any number of weights: k-means, entropy-constrained scalar quantization, even borders.

Clusters of numbers on a line are intervals, so weights are counted once in fine bins and an iteration reads prefix
sums at the cluster's borders: it takes the same time for a thousand weights as for a hundred million.
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
"""Of importance: weights of one class share the borders that their mean importance asks for. Below so many octaves
under the largest, differences no longer matter."""
_PIECE = 2**22
"""Weights that are looked at together: their temporaries fit into the memory that there is."""
_BODY = 16.0
"""Bins are even up to the mean magnitude over this, then grow with the magnitude: far tails leave the body its bins."""
_SWEEPS = 300
_TINY = float(np.finfo(np.float32).tiny)
_CONVERGED = 1e-6
"""Relative gain of a sweep after which no other follows."""


@dataclass(frozen=True, slots=True)
class _Bins:
    """What clustering needs to know of the weights: sums over all up to each bin, by class of importance."""

    centres: Floats
    """[bins], increasing"""
    sums: Floats
    """[4, classes, bins + 1]: number of weights, and sums of h, ``h w`` and ``h w^2``, of all bins before each"""
    importance: Floats
    """[classes], the mean of each"""
    cell: npt.NDArray[np.int32]
    """[weights]: ``class * bins + bin`` of each"""


def cluster(
    w: Floats, k: int, h: npt.ArrayLike = 1.0, price: float = 0.0, init: Init = "linear"
) -> tuple[npt.NDArray[np.int32], Floats]:
    """Shares values: the indices (of w's shape) and the values that make ``sum h (w - value)^2`` small.

    A price makes it ``sum h (w - value)^2 + price * bits``, where a value that a share p of the weights has costs
    ``-log2 p`` bits (ECSQ: Chou, Lookabaugh & Gray 1989; for weights, with h the diagonal of the Hessian: Choi,
    El-Khamy & Lee 2016). Weights that are zero stay zero, and count for the bits; with a price, others may join them.
    Values that no weight has are dropped, so that there may be fewer than k. Found by Lloyd's iteration, so a local
    minimum; the same for the same weights, always.

    Arguments:
        w: finite.
        k: values at most, zero among them where a weight is zero; 2 at least.
        h: how much an error counts: not negative, broadcast to w's shape.
        price: of a bit, in the unit of ``h w^2``.
        init: where values begin: evenly over the range (as Deep Compression has it, for it keeps the large weights),
            at weights taken at random, or at equal shares of all weights.
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
        kept /= peak  # at most 1, nothing can overflow
        weights = np.broadcast_to(np.asarray(h, np.float32), w.shape)[nonzero]
        weights = np.maximum(weights, max(float(weights.max()) * 2.0**-_OCTAVES, _TINY))
        bins = _bins(kept, weights, bool(price))
        table, owner = _lloyd(bins, _start(bins, kept, k - bool(zeros), init), 0.0, 0)
        if price:  # from there on: better than from the start by up to a twelfth, and never worse than without
            table, owner = _lloyd(bins, table, price / peak**2, zeros)
        table, found = table * peak, owner.reshape(-1)[bins.cell]
    if zeros and not (table == 0).any():
        table = np.append(table, 0.0)
    index[nonzero] = found
    if zeros:
        index[~nonzero] = int(np.flatnonzero(table == 0)[0])
    return index, table


def even(w: Floats, k: int, step: float, h: npt.ArrayLike = 1.0) -> tuple[npt.NDArray[np.int32], Floats]:
    """Shares values between borders that lie `step` apart: indices and values as `cluster` has them.

    A uniform quantizer with its entropy coded is within a quarter bit of the limit at high rates (Gish & Pierce 1968);
    values that are means, not middles, make up for some of that at low ones (Choi, El-Khamy & Lee 2016). The borders
    about zero are half a step away, and what lies between becomes zero.

    Arguments:
        w: finite.
        k: values at most; where the step is too small for that, it is as large as it must be. 3 at least.
        step: above 0.
        h: how much an error counts in means: not negative, broadcast to w's shape.
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
    """The values, sorted, where there are no more than k."""
    if len(np.unique(w[:_PIECE:64])) > k or len(values := np.unique(w)) > k:
        return None
    return values


def _bins(w: Floats, h: npt.NDArray[np.float32], classes: bool) -> _Bins:
    """Counts the weights ``w[n]``, in classes by their importances ``h[n]`` or in one."""
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
    """Values to begin with, distinct and increasing."""
    if init == "linear":
        return np.unique(np.linspace(w.min(), w.max(), k))
    if init == "random":
        return np.unique(w[np.random.default_rng(0).integers(len(w), size=k)])
    below = bins.sums[0, :, 1:].sum(0) / len(w)
    return np.unique(bins.centres[np.searchsorted(below, (np.arange(k) + 0.5) / k)])


def _lloyd(bins: _Bins, values: Floats, price: float, zeros: int) -> tuple[Floats, npt.NDArray[np.int32]]:
    """Values, and the value of every bin ``[classes, bins]``."""
    pinned = bool(zeros and price)  # others may join the zeros only where that saves bits
    if pinned:
        values = np.unique(np.append(values, 0.0))
    total = float(bins.sums[0, :, -1].sum()) + zeros
    bits = np.zeros(len(values))
    before = np.inf
    for _ in range(_SWEEPS):
        order = np.argsort(values)  # classes of unlike importance can bring values out of order
        values, bits = values[order], bits[order]
        borders = _borders(bins, values, price * bits)
        counts, weight, moment, square = np.diff(_at(bins.sums, borders)).sum(1)
        counts = counts + zeros * (values == 0) if pinned else counts
        used = counts > 0
        borders = borders[:, np.append(used, True)]
        values, counts, weight, moment, square = (a[used] for a in (values, counts, weight, moment, square))
        values = np.where((values == 0) & pinned, 0.0, moment / np.where(weight > 0, weight, 1))
        bits = -np.log2(counts / total)
        errors = square + values * (values * weight - 2 * moment)  # of each by itself: a far weight hides no others
        cost = float(errors.sum() + price * (bits * counts).sum())
        if before - cost <= _CONVERGED * abs(cost):
            break
        before = cost
    owner = np.empty((len(bins.importance), BINS), np.int32)
    for row, border in zip(owner, borders, strict=True):
        row[:] = np.repeat(np.arange(len(values)), np.diff(border))
    return values, owner


def _borders(bins: _Bins, values: Floats, cost: Floats) -> npt.NDArray[np.int64]:
    """[classes, values + 1]: the first bin of each value, and the end; no bins for a value that is never the best.

    Of two values ``a < b`` the second is better for ``w > (a + b) / 2 + (cost_b - cost_a) / (2 h (b - a))``.
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
        start = np.minimum.accumulate(start[::-1])[::-1]  # one that is never best begins where the next one does
        row[:-1] = np.searchsorted(bins.centres, start)
        row[0], row[-1] = 0, len(bins.centres)
    return borders


def _at(sums: Floats, borders: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """[4, classes, values + 1]"""
    return np.take_along_axis(sums, borders[None], 2)
