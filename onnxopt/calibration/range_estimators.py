"""Range estimation for activations: histograms of streamed data, and the usual estimators.

A quantizer of L levels with the range ``[low, high]`` has steps of ``(high - low) / (L - 1)``, and zero is a level. A
wide range rounds all values coarsely, a narrow one clips the largest values; `candidates` estimates both ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SHIFT = 15
"""Low bits of a float32 number that bins ignore: 8 bits of mantissa remain, 256 bins for each power of two."""
_BINS = 2 ** (32 - _SHIFT)
_MAGNITUDES = _BINS // 2
"""Bins of one sign; bins of negative numbers follow those of positive numbers, as their bits do."""
_PIECE = 2**20
"""Numbers binned at a time."""
_NOTHING = 2.0**-100
"""A narrower range counts as holding only zeros: its 16-bit steps are not normal float32 numbers."""
_CUT = 1e-4
"""Share of the numbers that "percentile" clips."""
_LADDER = np.geomspace(2.0**-24, 1, 128)
"""Clipping thresholds of "mse", as shares of the largest magnitude; a finer search follows about the best."""
_LINEAR = 2048
"""Equal bins for "entropy", as in TensorRT."""
_THRESHOLDS = 64
_UNSEEN = 1e-4
"""Count of an empty bin, so that the divergence is finite; as in ONNX Runtime."""


@dataclass(frozen=True)
class Range:
    """An interval that contains zero; ``[0, 1]`` if it would contain only zero."""

    low: float
    high: float

    def __post_init__(self) -> None:
        low, high = min(float(self.low), 0.0) + 0.0, max(float(self.high), 0.0)  # -0 becomes 0
        if not high - low > _NOTHING:
            low, high = 0.0, 1.0
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)


class Histogram:
    """Counts of numbers in bins of nearly equal relative width, 1/256 to 1/512.

    The bins are fixed, so the order and chunking of the numbers do not matter, and one huge number costs nothing.
    Memory grows with the number of bins that are not empty, a few thousand.
    """

    def __init__(self) -> None:
        self.count = 0
        """Finite numbers so far."""
        self.strange = 0
        """Infinities and NaNs so far, which nothing else counts."""
        self.low, self.high = 0.0, 0.0
        """Exact minimum and maximum; 0 if there is no number."""
        self._keys: npt.NDArray[np.intp] = np.empty(0, np.intp)
        self._counts: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def add(self, array: npt.NDArray[Any]) -> None:
        """Counts these numbers, as float32."""
        with np.errstate(over="ignore"):
            flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        for start in range(0, len(flat), _PIECE):
            self._add(flat[start : start + _PIECE])

    def _add(self, flat: npt.NDArray[np.float32]) -> None:
        low, high = flat.min(), flat.max()
        if not (np.isfinite(low) and np.isfinite(high)):  # a NaN makes both NaN
            finite = flat[np.isfinite(flat)]
            self.strange += len(flat) - len(finite)
            if not len(finite):
                return
            flat, low, high = finite, finite.min(), finite.max()
        self.low = min(self.low, float(low)) if self.count else float(low)
        self.high = max(self.high, float(high)) if self.count else float(high)
        self.count += len(flat)
        dense = np.bincount((flat.view(np.uint32) >> _SHIFT).astype(np.intp), minlength=_BINS)
        dense[self._keys] += self._counts
        self._keys = np.flatnonzero(dense)
        self._counts = dense[self._keys]

    @property
    def zeros(self) -> int:
        """Count of the numbers that are zero or of magnitude below 1e-40."""
        return int(self._counts[self._keys % _MAGNITUDES == 0].sum())

    def bins(self) -> tuple[Floats, Floats, Floats]:
        """Lower ends, upper ends and counts of the bins that are not empty, ascending, without zeros."""
        magnitude, negative = self._keys % _MAGNITUDES, self._keys >= _MAGNITUDES
        near = (magnitude << _SHIFT).astype(np.uint32).view(np.float32).astype(np.float64)
        far = ((magnitude + 1) << _SHIFT).astype(np.uint32).view(np.float32).astype(np.float64)
        order = np.concatenate([np.flatnonzero(negative)[::-1], np.flatnonzero(~negative)])
        order = order[magnitude[order] > 0]
        lower = np.where(negative, -far, near)[order].clip(self.low, self.high)
        upper = np.where(negative, -near, far)[order].clip(self.low, self.high)
        counts = self._counts[order].astype(np.float64)
        # An outlier alone in its bin is known exactly.
        if len(counts) and counts[0] == 1:
            upper[0] = lower[0]
        if len(counts) and counts[-1] == 1:
            lower[-1] = upper[-1]
        return lower, upper, counts


def candidates(histogram: Histogram, levels: int, symmetric: bool = False) -> dict[str, Range]:
    """Ranges by estimator; all lie within the observed range.

    - "minmax": clips nothing;
    - "percentile": clips 0.01 % of the numbers, half of them on each side if there are two;
    - "entropy": the least divergence between the distributions before and after quantization (Migacz 2017, 8-bit
      inference with TensorRT), without zeros, which quantization does not change;
    - "mse": the least `error`.

    Arguments:
        levels: number of levels, 256 for 8 bits.
        symmetric: as far below zero as above; zero is in the middle if the number of levels is odd.
    """
    low, high = min(histogram.low, 0.0), max(histogram.high, 0.0)
    bins = histogram.bins()

    def shaped(low: float, high: float) -> Range:
        return Range(min(low, -high), max(high, -low)) if symmetric else Range(low, high)

    found = {"minmax": shaped(low, high)}
    if not len(bins[0]):
        return dict.fromkeys(("minmax", "percentile", "entropy", "mse"), found["minmax"])
    found["percentile"] = shaped(*_percentile(histogram, bins))
    found["entropy"] = shaped(*_entropy(bins, max(-low, high), levels, low, high, symmetric))
    least = shaped(*_search(bins, low, high, levels, symmetric))
    found["mse"] = min((least, *found.values()), key=lambda one: error(histogram, one, levels))
    return found


def error(histogram: Histogram, chosen: Range, levels: int) -> float:
    """Expected squared error of a number that is rounded or clipped to the nearest level; 0 without numbers.

    Numbers count as evenly spread within their bins. With n the level nearest to x and s the step, the integral of the
    squared error is then ``n s^3 / 12 + (x - n s)^3 / 3``, inside and outside the range.
    """
    lower, upper, counts = histogram.bins()
    if not len(counts):
        return 0.0
    step = (chosen.high - chosen.low) / (levels - 1)
    least = np.rint(chosen.low / step)

    def off(x: Floats) -> tuple[Floats, Floats]:
        nearest = np.clip(np.rint(x / step), least, least + levels - 1)
        return nearest, x / step - nearest

    (n, r), (m, t) = off(lower), off(upper)
    width = (upper - lower) / step
    integral = (m - n) / 12 + (t**3 - r**3) / 3
    narrow = width < 1e-6
    mean = np.where(narrow, r * r, integral / np.where(narrow, 1, width))
    return float((counts * mean).sum() / histogram.count) * step * step


def _percentile(histogram: Histogram, bins: tuple[Floats, Floats, Floats]) -> tuple[float, float]:
    lower, upper, counts = bins
    sides = 2 if histogram.low < 0 < histogram.high else 1
    most = _CUT / sides * histogram.count

    def bound(ends: Floats, starts: Floats, counts: Floats) -> float:
        """The bound with `most` numbers beyond it; bins are in descending order of magnitude."""
        beyond = np.cumsum(counts)
        if beyond[-1] <= most:
            return 0.0
        i = int(np.searchsorted(beyond, most, "right"))
        part = (most - beyond[i] + counts[i]) / counts[i]
        return float(ends[i] + part * (starts[i] - ends[i]))

    negative = upper <= 0
    low = bound(lower[negative], upper[negative], counts[negative]) if negative.any() else 0.0
    positive = np.flatnonzero(~negative)[::-1]
    high = bound(upper[positive], lower[positive], counts[positive]) if len(positive) else 0.0
    return low, high


def _entropy(bins: tuple[Floats, Floats, Floats], largest: float, levels: int, low: float, high: float, symmetric: bool
             ) -> tuple[float, float]:  # fmt: skip
    """One threshold for both sides, as in ONNX Runtime; a side that does not reach it is not clipped."""
    lower, upper, counts = bins
    one_sided = not symmetric and (low == 0 or high == 0)
    if one_sided and low < 0:
        lower, upper, counts = -upper[::-1], -lower[::-1], counts[::-1]
    edges = np.linspace(0 if one_sided else -largest, largest, _LINEAR + 1)
    # Counts below each edge; interpolation needs a width for bins that are a single point.
    ends = np.stack([lower, np.maximum(upper, np.nextafter(lower, np.inf))], 1).ravel()
    below = np.cumsum(counts)
    cumulated = np.interp(edges, ends, np.stack([below - counts, below], 1).ravel(), 0, below[-1])
    cumulated[0], cumulated[-1] = 0, below[-1]
    linear = np.diff(cumulated)
    whole = _LINEAR if one_sided else _LINEAR // 2
    fewest = min(max(levels if one_sided else levels // 2, 1), whole)
    kept = np.unique(np.linspace(fewest, whole, _THRESHOLDS).astype(int))
    divergences = [_divergence(linear, 0 if one_sided else whole - k, whole + k if not one_sided else k, levels)
                   for k in kept]  # fmt: skip
    bound = largest * float(kept[int(np.argmin(divergences))]) / whole
    return max(low, -bound), min(high, bound)


def _divergence(counts: Floats, start: int, stop: int, levels: int) -> float:
    """Kullback-Leibler divergence of the counts, clipped to these bins, from the counts after rounding to levels.

    The count of a level is spread evenly over those of its bins that are not empty (Migacz 2017).
    """
    inside = counts[start:stop]
    seen = inside.copy()
    seen[0] += counts[:start].sum()
    seen[-1] += counts[stop:].sum()
    held = seen > 0
    level = np.arange(stop - start) * levels // (stop - start)
    width = np.bincount(level, held)
    spread = (np.bincount(level, inside) / np.maximum(width, 1))[level] * held
    p, q = np.maximum(seen, _UNSEEN), np.maximum(spread, _UNSEEN)
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


class _Side:
    """Prefix sums over sorted magnitudes, to evaluate many bounds at once."""

    def __init__(self, magnitudes: Floats, counts: Floats) -> None:
        order = np.argsort(magnitudes)
        self._magnitudes = magnitudes[order]
        self._sums = [np.concatenate([[0.0], np.cumsum(counts[order] * self._magnitudes**power)]) for power in range(3)]

    def within(self, bound: Floats) -> tuple[Floats, Floats]:
        """Count, and sum of squares, of the magnitudes below each bound."""
        at = np.searchsorted(self._magnitudes, bound)
        return self._sums[0][at], self._sums[2][at]

    def beyond(self, bound: Floats) -> tuple[Floats, Floats]:
        """Count, and sum of squared distances, of the magnitudes beyond each bound."""
        at = np.searchsorted(self._magnitudes, bound)
        number, sums, squares = (total[-1] - total[at] for total in self._sums)
        return number, np.maximum(squares - 2 * bound * sums + bound * bound * number, 0)


def _search(
    bins: tuple[Floats, Floats, Floats], low: float, high: float, levels: int, symmetric: bool
) -> tuple[float, float]:
    """The range of about the least error.

    Rounding errors within the range count as uniform, except for numbers that round to zero, whose error is known.
    """
    lower, upper, counts = bins
    middle = np.abs(lower + upper) / 2
    negative = upper <= 0
    total = counts.sum()
    every, below, above = _Side(middle, counts), *(_Side(middle[s], counts[s]) for s in (negative, ~negative))

    def cost(low: Floats, high: Floats) -> Floats:
        step = (high + low) / (levels - 1)
        to_zero, small = every.within(step / 2)
        (n, clipped), (m, more) = below.beyond(low), above.beyond(high)
        rounded = np.maximum(total - n - m - to_zero, 0)
        return np.asarray(clipped + more + small + rounded * step * step / 12)

    # Magnitudes of the two bounds; they are equal if the range is symmetric.
    lows = -low * _LADDER if low < 0 else np.zeros(1)
    highs = high * _LADDER if high > 0 else np.zeros(1)
    if symmetric:
        lows = highs = max(-low, high) * _LADDER
    for _ in range(3):
        if symmetric:
            i = j = int(np.argmin(cost(lows, highs)))
        else:
            i, j = divmod(int(np.argmin(cost(lows[:, None], highs[None]))), len(highs))
        best = float(lows[i]), float(highs[j])
        lows, highs = _about(lows, i), _about(highs, j)
    return -best[0], best[1]


def _about(values: Floats, i: int) -> Floats:
    return np.linspace(values[max(i - 1, 0)], values[min(i + 1, len(values) - 1)], 17) if len(values) > 1 else values
