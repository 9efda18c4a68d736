"""Uniform scalar quantization with entropy coding: one grid through zero per output channel.

At high rates, a uniform quantizer with entropy coding is within a quarter bit of the rate-distortion limit for any
distribution (Gish & Pierce 1968). The step alone therefore sets the trade-off: the error is ``step / sqrt(12)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Affine, Array, along_axis, narrowed, nearest_log_step, step_of
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, Skip, channel_rms, finite

_EXACT = 2**24  # above this magnitude, float32 cannot represent every integer


@dataclass(frozen=True, slots=True)
class Uniform(Pass):
    """``uniform{error=e}``: quantization noise of `e` times the weight's root mean square.

    Channel c uses the step ``e sqrt(12 rms_c rms)``: a compromise between one common step, which loses weak channels
    that the next layer amplifies, and proportional steps, which waste bits on them.
    """

    name: ClassVar[str] = "uniform"
    error: float

    def __post_init__(self) -> None:
        if not 0 < self.error <= 1:
            raise ValueError(f"error is {self.error}, expected more than 0 and at most 1")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Octaves of error, coarsest first. Each adds one bit per weight."""
        yield from (cls(error=2.0**-octave) for octave in range(2, 8))

    def quantize(self, values: Array, axis: int | None) -> Affine:
        """The weight ``W[..., axis, ...]`` as integers and one step for every index of the axis (None: one for all).

        Raises Skip if the weight cannot be represented.
        """
        w = finite(values)
        rms = float(np.sqrt(np.square(w).mean()))
        k = nearest_log_step(self.error * rms * np.sqrt(12 * channel_rms(w, axis)))
        scales = step_of(k).astype(np.float64).reshape(along_axis(w.ndim, axis or 0))
        q = np.rint(w / scales)
        if np.abs(q).max() >= _EXACT:
            raise Skip(f"an outlier of {np.abs(q).max():.3g} steps is too far out for a float32 grid")
        return Affine(narrowed(q.astype(np.int32)), k, axis or 0, values.dtype)

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the weight on the grid."""
        graph.store(site.path, self.quantize(graph.values(site.path), site.axis))
        return ()
