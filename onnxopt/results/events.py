"""Events: what happened to each weight, as reports show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxopt.passes.math.relative_index import Sizes

_BINS = 65
"""Odd, so that zero is the centre of a bin and all zeros fall into one bin."""
_WIDTH = 5.0
"""Half-width of a histogram, in root mean squares: covers nearly all of a heavy tail and leaves many bins for the
body."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Distribution of a weight's elements before and after, counted in the same equal bins of ``-reach..reach``.

    The outermost bins also count the values outside this range.
    """

    reach: float
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Self | None:
        """The histogram of a weight; None if it is not float, not finite, or all zeros."""
        if before.dtype.kind != "f" or not before.size:
            return None
        largest = float(max(before.max(), -before.min()))
        reach = min(largest, _WIDTH * float(np.square(before, dtype=np.float64).mean()) ** 0.5)
        if not (np.isfinite(reach) and reach > 0):
            return None
        return cls(reach, _counts(before, reach), _counts(after, reach))


def _counts(values: npt.NDArray[Any], reach: float) -> tuple[int, ...]:
    edge = np.float64(reach)  # the weight's own type may be too coarse for edges
    counts, _ = np.histogram(values, _BINS, (-edge, edge))
    counts[0] += np.count_nonzero(values < -reach)
    counts[-1] += np.count_nonzero(values > reach)
    return tuple(map(int, counts))


@dataclass(frozen=True, slots=True)
class Event:
    """One weight, or the rest of the file under a single name."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses the weight."""
    step: str
    """The step, as written in the plan."""
    bytes_before: int
    bytes_after: int
    elements: int
    error: float
    """Root mean square of the change over root mean square of the weight."""
    codec: str = ""
    predicted: float | None = None
    """Root of noise over signal in the node's outputs, as predicted from statistics before quantization."""
    measured: float | None = None
    """The same, measured on held-back inputs."""
    zeros: float = 0.0
    """Share of elements that are zero."""
    sensitivity: float | None = None
    """Mean contribution of one element to the power of the model's outputs, as a share of that power: the noise over
    signal (in power) of removing the weight, to first order, divided among its elements. The search spends bits in
    proportion to the logarithm of this (`search.expected_bits`). None if nothing was measured."""
    histogram: Histogram | None = None
    """None if there is nothing to count, as for the rest of the file."""
    nodes_before: tuple[str, ...] = ()
    """The nodes that use the weight in the source, one line each: type, name, attributes, weights with shapes."""
    nodes_after: tuple[str, ...] = ()
    """The same in the output, after clean-ups have merged nodes."""
    reason: str = ""
    """Why the weight was left unchanged; empty if it was changed."""
    sizes: Sizes | None = None
    """Sizes of the weight as a matrix with relative indices; None for vectors, and unless a paper's table is
    requested."""
    macs: int | None = None
    """Multiply-accumulates of one sample with the weight, zeros included. Counted for papers' tables and if layers were
    factorised, otherwise None."""
    ranks: tuple[int, ...] = ()
    """Ranks of the factor chain that contains this weight; empty if there is none."""

    @property
    def bits(self) -> float:
        """Bits per element in the file."""
        return 8 * self.bytes_after / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer that was factorised into a factor chain."""

    path: str
    """Path of the replaced weight."""
    step: str
    """The factorisation, with its ranks."""
    ranks: tuple[int, ...]
    parts: tuple[str, ...]
    """Paths of the factors, in the order in which they are applied."""
    weights_before: int
    """Elements, without biases."""
    weights_after: int
    macs_before: int | None = None
    """Multiply-accumulates of one sample; None if not counted."""
    macs_after: int | None = None

    @property
    def smaller(self) -> float:
        """Weights before over after: M of Kim et al. 2016."""
        return self.weights_before / self.weights_after

    @property
    def less_work(self) -> float | None:
        """Multiply-accumulates before over after: E of Kim et al. 2016."""
        return self.macs_before / self.macs_after if self.macs_before and self.macs_after else None
