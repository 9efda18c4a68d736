"""GPTQ-style error feedback: each integer is chosen to compensate the errors of the previous ones.

The error of a layer's output is ``sum_o e_o H e_o^T`` with e the rows of the weights' error and H the second moment of
the inputs. Columns are quantized one after another, and each error, weighted by the inputs' correlations, is added to
the remaining columns, which keeps the sum small (OBQ, GPTQ: Frantar et al. 2022; LDLQ: Chee et al. 2023). Each integer
minimises its error plus `_RATE` times the price of its bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, log
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt

from onnxopt import native
from onnxopt.calibration.stats import Floats, Moments, Stats, in_blocks, in_parts, out_of_blocks
from onnxopt.encoding import STEPS_PER_OCTAVE, Affine, Array, Raw, narrowed, nearest_log_step, step_of
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, Skip, channel_rms, correct_bias, finite, matrix, require_finite, tensor

_RATE = 0.25
"""Price of a bit when an integer is chosen, as a share of the slope. At 1, the price would equal that of the step size,
but such rounding shrinks all weights, and the errors add up through the layers. On held-back images, 0.1 to 0.5 are
equally good, and 1 gives 3 to 10 % more noise at equal bits."""
_DEAREST = 1e30
"""The price of a bit beside which every error is cheap, and which float32 holds."""
_LARGE = 2**16  # elements from which on a scale per row costs next to nothing
_VECTOR = 0.25
"""The noise over signal of a bias, of slopes or of scales, relative to that of a row of weights."""
_TINY = 1e-60
_ABOUT = 1.4
"""The most noise of a step over whole integers, as a share of what the slope asks for: from there on, the bits
of one integer more are worth its noise."""
_BETWEEN = (2.0, 6), (1.5, 4), (4 / 3, 3)
"""Steps between one integer and three, and their noise without feedback, in twelfths: each skips some integers."""
_FINEST = 2**21  # steps to the largest weight: float32 hardly resolves finer ones


@dataclass(frozen=True, slots=True)
class Feedback(Pass):
    """``feedback{slope=c}``: the precision of every weight follows from one rate-distortion slope.

    At slope c each weight adds noise of power c to the model's outputs, relative to theirs: a grid of step d makes
    noise ``d^2 / 12``, so ``d^2 = 12 c / (g mean_i v_i)``, with v the variances of `stats.factor` and g the gain. One
    slope for all weights needs the fewest bits for a given output error (reverse water-filling; Gish & Pierce 1968).
    ``max_bits=b`` keeps integers below ``2^(b-1)`` in magnitude, with a grid coarse enough to avoid saturation; 0 sets
    no bound.
    """

    name: ClassVar[str] = "feedback"
    slope: float
    max_bits: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.slope < float("inf"):
            raise ValueError(f"slope is {self.slope}, expected a number above 0")
        if not (self.max_bits == 0 or 2 <= self.max_bits <= 16):
            raise ValueError(f"max_bits is {self.max_bits}, expected 2 to 16, or 0 for no bound")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Octaves of error, coarsest first. Each adds one bit per weight."""
        yield from (cls(slope=2.0**-octave / max(1, site.elements)) for octave in range(4, 20, 2))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the quantized weight, and corrects the bias for the mean remaining error."""
        values, unit = graph.values(site.path), _unit(site, stats)
        made = [self._rounded(w, of, stats) for w, of in _parts(values, site, stats)]
        q, k, step = (np.concatenate(each, 1) if len(made) > 1 else each[0] for each in zip(*made, strict=True))
        if unit is None:
            graph.store(site.path, _leaf(q, k, values, site, stats))
        else:
            graph.store(site.path, Raw(tensor((q * step[..., None]).astype(values.dtype), site, stats)))
        if stats.linear is not None and stats.linear.bias is not None:  # what follows is as large as the weight, twice
            error = matrix(finite(values), site, stats) - matrix(graph.encoding(site.path).values(), site, stats)
            correct_bias(graph, error, stats, about_mean=True)
        return ()

    def predict(self, values: Array, site: Site, stats: Stats) -> float | None:
        """Root of noise over signal in the node's own outputs, from the steps alone."""
        if stats.moments is None or stats.signal <= 0:
            return None
        made = [self._steps(w, stats.moments.variance, of, stats)[1] for w, of in _parts(values, site, stats)]
        step = np.concatenate(made, 1)
        return float(np.sqrt((np.square(step) / 12 * stats.moments.variance.sum(1)[:, None]).sum() / stats.signal))

    def _rounded(self, w: Floats, site: Site, stats: Stats) -> tuple[Array, Array, Floats]:
        """Integers of ``W[groups, outputs, inputs]``; the step of each row, as its place on the grid of steps, and as a
        number. Raises Skip if a weight of integers stays as it is."""
        moments = stats.moments
        variance = moments.variance if moments else np.ones((len(w), w.shape[2]), np.float32)
        asked, step = self._steps(w, variance, site, stats)
        unit = _unit(site, stats)
        if unit is not None and (step == unit).all():
            raise Skip("coarser integers than those that it came with would make too much noise")
        price = np.full(step.shape, 2 * log(2) * self.slope / stats.gain * _RATE)
        # A row that is quantized more finely than the slope asks for pays for a bit in proportion to its own noise.
        noise = np.square(step) / 12 * variance.astype(np.float64).mean(1)[:, None]
        price = np.where(step < asked, np.minimum(price, 2 * log(2) * noise * _RATE), price)
        if w.size >= _LARGE and not self.max_bits and unit is None:
            # Steps lie on a grid. Some rows take the next finer step and some the next coarser one, so that sizes do
            # not jump.
            step = step * 2.0 ** (((np.arange(w.shape[1]) + 0.5) / w.shape[1] - 0.5) / STEPS_PER_OCTAVE)
        k = nearest_log_step(step)
        if unit is None:
            step = step_of(k).astype(np.float64)
        options = native.QuantizerOptions(max_level=2 ** (self.max_bits - 1) - 1 if self.max_bits else None)
        price = np.minimum(price, _DEAREST)
        q = _fed(w, moments, variance, step, price, options)
        if moments is not None and moments.held_back.shape[1]:
            other, _, _ = native.quantize(w, None, moments.power, step, price, options)
            q = min(q, other, key=lambda q: moments.noise(w - q * step[..., None]))
        return narrowed(q), k, step

    def _steps(self, w: Floats, variance: npt.NDArray[Any], site: Site, stats: Stats) -> tuple[Floats, Floats]:
        """Step of each row, [groups, outputs]: what the slope asks for, and what the row gets.

        Rows that must share a scale share the step.
        """
        groups, outputs, _ = w.shape
        step = np.sqrt(12 * self.slope / (stats.gain * variance.astype(np.float64).mean(1)))
        step = np.broadcast_to(step[:, None], (groups, outputs))
        if stats.moments is None and site.axis is not None:
            # Without input statistics: a compromise between one common step, which loses weak channels that the next
            # layer amplifies, and proportional steps, which waste bits on them.
            step = step * np.sqrt(channel_rms(w, 1))
        largest, coarsest = np.maximum(w.max(2), -w.min(2)), _coarsest(w, site, stats.row_noise)
        if site.axis is not None and site.shape[site.axis] != groups * outputs:  # groups share scales
            step = np.broadcast_to(np.exp(np.log(step).mean(0)), step.shape)
            largest = np.broadcast_to(largest.max(0), step.shape)
            coarsest = np.broadcast_to(coarsest.min(0), step.shape)
        given = np.maximum(np.minimum(step, coarsest), largest / _FINEST)
        if self.max_bits:
            given = np.maximum(given, largest / (2 ** (self.max_bits - 1) - 1) * 2**0.125)
        if (unit := _unit(site, stats)) is not None:
            given = unit * _times(given / unit, stats.moments is not None, bounded=bool(self.max_bits))
        return step, np.asarray(given)


def _parts(values: Array, site: Site, stats: Stats) -> Iterator[tuple[Floats, Site]]:
    """Parts of the weight as ``W[groups, outputs, inputs]``, and a site of the shape of each; all of one whose rows
    depend on each other. Raises Skip as `finite` does."""
    require_finite(values)
    rows = matrix(values, site, stats)
    if stats.grid is not None:
        yield rows.astype(np.float64), site
        return
    for part in in_parts(rows.shape):
        w = rows[:, part].astype(np.float64)
        shape = list(site.shape)
        if site.axis is not None:
            shape[site.axis] = shape[site.axis] * w.shape[1] // rows.shape[1]
        yield w, replace(site, shape=tuple(shape))


def _unit(site: Site, stats: Stats) -> Floats | None:
    """What one integer adds to a row of integers that move, [groups, outputs].

    None for floats, and where the scale is not the same along rows: then each value goes to the nearest integer.
    """
    if stats.grid is None:
        return None
    units = matrix(stats.grid.units(), site, stats)
    return units[..., 0].astype(np.float64) if (units == units[..., :1]).all() else None


def _times(wanted: Floats, fed_back: bool, bounded: bool) -> float:
    """The integers that a step goes over: the same number in all rows, as one table names those that are left.

    Rows make about as much noise together as with the steps that they are wanted with, in integers. A step over n makes
    ``n^2 / 12`` where feedback has moved the weights between the integers, and none over one. Without feedback, each
    goes to the nearest: over an odd n that makes ``(n^2 - 1) / 12``, which even ones are not worth.
    """
    if bounded:
        return float(np.ceil(wanted.max()))
    twelfths = _ABOUT / np.square(1 / wanted).mean()
    if fed_back:
        return max(1.0, float(np.floor(np.sqrt(twelfths))))
    odd = (np.floor(np.sqrt(twelfths + 1)) - 1) // 2 * 2 + 1
    return float(odd) if odd > 1 else next((times for times, made in _BETWEEN if made <= twelfths), 1.0)


def _fed(w: Floats, moments: Moments | None, variance: Array, step: Floats, price: Floats,
         options: native.QuantizerOptions) -> npt.NDArray[np.int32]:  # fmt: skip
    """Integers of ``W[groups, outputs, inputs]`` by error feedback, which stays within a block of inputs."""
    if moments is None or moments.blocks == 1:
        return native.quantize(w, moments.feedback if moments else None, variance, step, price, options)[0]
    blocks = moments.blocks
    step, price = (np.repeat(one, blocks, 0) for one in (step, price))
    q, _, _ = native.quantize(
        in_blocks(w, blocks), moments.feedback, variance.reshape(len(step), -1), step, price, options
    )
    return out_of_blocks(q, blocks)


def _coarsest(w: Floats, site: Site, noise: float) -> Floats:
    """The coarsest step of each row, [groups, outputs], that keeps its noise over signal; a row of zeros has none.

    A vector holds one number for each output: its noise is that of its outputs, and it has few elements.
    """
    if noise == inf:
        return np.full(w.shape[:2], inf)
    if site.axis is None:
        noise = noise * _VECTOR
    power = np.square(w).mean(2)
    return np.where(power > 0, noise * np.sqrt(12 * np.maximum(power, _TINY)), inf)


def _leaf(q: npt.NDArray[np.int32], k: npt.NDArray[np.int16], values: Array, site: Site, stats: Stats) -> Affine:
    axis = site.axis or 0
    length = values.shape[axis] if values.ndim else 1
    scales = np.full(1, k.flat[0], np.int16) if (k == k.flat[0]).all() else k.reshape(-1)[:length]
    return Affine(narrowed(np.ascontiguousarray(tensor(q, site, stats))), scales, axis, values.dtype)
