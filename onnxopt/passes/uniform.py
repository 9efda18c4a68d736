"""Uniform scalar quantization: one grid through zero for every output channel, coded by entropy.

At high rate a uniform quantizer with entropy coding is within a quarter bit of the rate-distortion limit for any
distribution (Gish & Pierce 1968), so the step alone sets the trade: its error is ``step / sqrt(12)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxopt.graph import Graph, Site
from onnxopt.leaf import Scaled, nearest_log_step, step_of
from onnxopt.passes.base import Pass, Skip
from onnxopt.stats import Stats

_EXACT = 2**24  # beyond this magnitude not every integer is a float32


@dataclass(frozen=True, slots=True)
class Uniform(Pass):
    """``uniform{error=e}``: each output channel's quantization noise has `e` times the channel's own power (rms)."""

    name: ClassVar[str] = "uniform"
    error: float

    def __post_init__(self) -> None:
        if not 0 < self.error <= 1:
            raise ValueError(f"error is {self.error}, expected more than 0 and at most 1")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Octaves of error, coarsest first: each is one more bit a weight."""
        yield from (cls(error=2.0**-octave) for octave in range(2, 8))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the weight ``W[..., axis, ...]`` as integers and one step for every index of the axis."""
        values = graph.values(site.path)
        w = values.astype(np.float64)
        if not np.isfinite(w).all():
            raise Skip("holds infinities or NaNs")
        others = tuple(a for a in range(w.ndim) if a != site.axis)
        power = np.sqrt(np.square(w).mean(axis=others))
        if not power.any():
            raise Skip("all zeros")
        power[power == 0] = power.max()  # a dead channel: any step does
        k = nearest_log_step(self.error * np.sqrt(12) * power)
        along = [1] * w.ndim
        along[site.axis] = -1
        q = np.rint(w / step_of(k).astype(np.float64).reshape(along))
        if np.abs(q).max() >= _EXACT:
            raise Skip(f"an outlier of {np.abs(q).max():.0f} steps does not fit a float32 grid")
        graph.store(site.path, Scaled(q.astype(np.int32), k, site.axis, values.dtype))
        return ()
