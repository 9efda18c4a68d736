"""Layer outputs in dynamic fixed point: b-bit integers and one power-of-two scale for all outputs of a layer.

The method is Ristretto's (Gysel, Motamedi & Ghiasi 2016), as MicroBrain (Ge et al.) and ETRI (Kim et al.) use it: a
layer is a convolution or a matrix product with its bias, and calibration data give the range of its outputs. If a ReLU
follows, Caffe runs it in place, so the range is that of the ReLU's outputs. Here, too, rounding follows the ReLU: the
values are the same, and the runtime can fuse the layer and its ReLU. Ristretto's program uses one integer bit less for
outputs than for weights, so that the largest values saturate. Here, no value seen in calibration saturates.
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
    """``outputs{bits=8}``: rounds the outputs of the layers with this weight to the nearest level, with saturation.

    The weight itself does not change. Steps that change it may come first: ``fixedpoint{bits=6} > outputs{bits=8}``.
    """

    name: ClassVar[str] = "outputs"
    bits: int

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and 2 <= self.bits <= 16):
            raise ValueError(f"bits is {self.bits}, expected 2 to 16")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Fewest bits first. No decisions if the range is unknown."""
        if stats.peaks():
            yield from (cls(bits) for bits in range(2, 17))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Rounds the outputs. Raises Skip if their range is unknown, zero, or beyond the element type."""
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
