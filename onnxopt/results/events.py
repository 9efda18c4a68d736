"""What happened to each weight: all that reports read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from onnxopt.passes.math.relative_index import Sizes

_BINS = 65
"""Odd, so that zero lies in the middle of a bin, and what became zero is one bin."""
_WIDTH = 5.0
"""Of a histogram on either side of zero, in root mean squares: nearly all of a heavy tail, and a body of many bins."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """How a weight's elements spread, before and after, counted in the same equal bins of ``-reach..reach``.

    The outermost bins hold what lies outside, too.
    """

    reach: float
    before: tuple[int, ...]
    after: tuple[int, ...]

    @classmethod
    def of(cls, before: npt.NDArray[Any], after: npt.NDArray[Any]) -> Self | None:
        """None where nothing can be counted: no floats, infinities or NaNs, all zeros."""
        if before.dtype.kind != "f" or not before.size:
            return None
        largest = float(max(before.max(), -before.min()))
        reach = min(largest, _WIDTH * float(np.square(before, dtype=np.float64).mean()) ** 0.5)
        if not (np.isfinite(reach) and reach > 0):
            return None
        return cls(reach, _counts(before, reach), _counts(after, reach))


def _counts(values: npt.NDArray[Any], reach: float) -> tuple[int, ...]:
    edge = np.float64(reach)  # else the edges are of the weight's type, which is too coarse for tiny ones
    counts, _ = np.histogram(values, _BINS, (-edge, edge))
    counts[0] += np.count_nonzero(values < -reach)
    counts[-1] += np.count_nonzero(values > reach)
    return tuple(map(int, counts))


@dataclass(frozen=True, slots=True)
class Event:
    """One weight, or all the rest of the file under one name."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses it."""
    step: str
    """The decision, in the plan's words."""
    bytes_before: int
    bytes_after: int
    elements: int
    error: float
    """Root mean square of the change over root mean square of the weight."""
    codec: str = ""
    predicted: float | None = None
    """Root of noise over signal in the node's outputs, as the statistics promised before quantization."""
    measured: float | None = None
    """The same, on inputs that were held back."""
    zeros: float = 0.0
    """Share of the elements."""
    sensitivity: float | None = None
    """What one element contributes to the power of the model's outputs, relative to it, in the mean: the noise over
    signal (in power) that leaving the weight out would make, to first order, shared among its elements. The search
    spends bits in proportion to the logarithm of this (`search.expected_bits`). None where nothing was measured."""
    histogram: Histogram | None = None
    """None where there is nothing to count, as in the rest of the file."""
    nodes_before: tuple[str, ...] = ()
    """What the source computed with the weight, one line a node: type, name, attributes, weights with their shapes."""
    nodes_after: tuple[str, ...] = ()
    """The same in the output, where clean-ups have merged nodes."""
    reason: str = ""
    """Why it was left as it was; empty where it was not."""
    sizes: Sizes | None = None
    """What a matrix of it takes by relative indices; None for vectors, and where papers' tables are not wanted."""
    macs: int | None = None
    """Multiply-accumulates of one sample with the weight, zeros included; counted for papers' tables, and where layers
    became chains, else None."""
    ranks: tuple[int, ...] = ()
    """Of the chain that it is a factor of; empty where it is of none."""

    @property
    def bits(self) -> float:
        """Bits in the file for each element."""
        return 8 * self.bytes_after / self.elements if self.elements else 0.0


@dataclass(frozen=True, slots=True)
class Chain:
    """A layer that became a chain of layers."""

    path: str
    """Of the weight that is gone."""
    step: str
    """With its ranks."""
    ranks: tuple[int, ...]
    parts: tuple[str, ...]
    """Paths of the factors, in the order in which they are met."""
    weights_before: int
    """Elements, without biases."""
    weights_after: int
    macs_before: int | None = None
    """Multiply-accumulates of one sample; None where they were not counted."""
    macs_after: int | None = None

    @property
    def smaller(self) -> float:
        """Weights before over after: M of Kim et al. 2016."""
        return self.weights_before / self.weights_after

    @property
    def less_work(self) -> float | None:
        """Multiply-accumulates before over after: E of Kim et al. 2016."""
        return self.macs_before / self.macs_after if self.macs_before and self.macs_after else None
