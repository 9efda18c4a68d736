"""Layer outputs in dynamic fixed point: integers of b bits, and one power of two for all that a layer gives.

As in Ristretto (Gysel, Motamedi & Ghiasi 2016), from which MicroBrain (Ge et al.) and ETRI (Kim et al.) have it: a
layer is a convolution or a matrix product with its bias, and the range of its outputs is taken from data. Where a
rectifier follows, Caffe lets it work in place, so the range is that of its outputs; here the rounding comes after it,
too, which gives the same values and leaves the layer and its rectifier to the runtime in one piece. Ristretto's
program has one bit less before the point for outputs than for weights, and the largest saturate; here nothing does that
was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Stats
from onnxopt.graph import Graph, QuantParams, Site
from onnxopt.passes.base import Pass, Skip, integer_length


@dataclass(frozen=True, slots=True)
class Outputs(Pass):
    """``outputs{bits=8}``: what the layers with this weight give is rounded to the nearest, saturating.

    The weight stays what it is, so this goes with steps that change it: ``fixedpoint{bits=6} > outputs{bits=8}``.
    """

    name: ClassVar[str] = "outputs"
    bits: int

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and 2 <= self.bits <= 16):
            raise ValueError(f"bits is {self.bits}, expected 2 to 16")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Fewest bits first; none where the range is not known."""
        if stats.peaks():
            yield from (cls(bits) for bits in range(2, 17))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Raises Skip where the range is not known, or no range."""
        peaks = stats.peaks()
        if not peaks:
            raise Skip("the range of the layer's outputs was not measured")
        dtype, top = graph.values(site.path).dtype, 2 ** (self.bits - 1)
        widest = min(np.finfo(dtype).maxexp, np.finfo(np.float32).maxexp)
        quantized = {}
        for value, peak in peaks.items():
            if peak == 0:
                raise Skip("the layer's outputs are all zeros")
            if not np.isfinite(peak) or (length := integer_length(peak)) > widest:
                raise Skip(f"the layer's outputs reach {peak:.3g}, which {dtype} holds no grid for")
            quantized[value] = QuantParams.within(2.0 ** max(length - self.bits, -126), 0, -top, top - 1, str(dtype))
        for value, params in quantized.items():
            graph.quantize(value, params)
        return ()
