"""Dynamic fixed point: b-bit integers and one power-of-two scale for the whole weight.

As in Ristretto (Gysel, Motamedi & Ghiasi 2016) and MicroBrain (Ge et al.): the integer part is as long as the largest
magnitude needs, ``ceil(log2 max|x|) + 1`` bits with the sign, and the fraction has the remaining bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.encoding import STEPS_PER_OCTAVE, Affine, Codebook, step_of
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, finite, integer_length


@dataclass(frozen=True, slots=True)
class FixedPoint(Pass):
    """``fixedpoint{bits=8}``: rounds to the nearest level, with saturation. For a codebook, it rounds the table."""

    name: ClassVar[str] = "fixedpoint"
    bits: int

    def __post_init__(self) -> None:
        if not (isinstance(self.bits, int) and 2 <= self.bits <= 16):
            raise ValueError(f"bits is {self.bits}, expected 2 to 16")

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Fewest bits first. Each additional bit halves the step."""
        yield from (cls(bits) for bits in range(2, 17))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores integers and the scale. Raises Skip for infinities, NaNs, and weights that are all zeros."""
        stored = graph.encoding(site.path)
        values = stored.values()
        w = finite(values, any_size=True)
        exponent = integer_length(float(np.abs(w).max())) - self.bits
        k = np.array([max(exponent, -126) * STEPS_PER_OCTAVE], np.int16)  # scales are normal float32 numbers
        if isinstance(stored, Codebook):
            table = Affine(self._round(stored.table.astype(np.float64), k), k, 0, stored.table.dtype).values()
            graph.store(site.path, Codebook(stored.index, table))
        else:
            graph.store(site.path, Affine(self._round(w, k), k, 0, values.dtype))
        return ()

    def _round(self, w: Floats, k: npt.NDArray[np.int16]) -> npt.NDArray[np.int32]:
        top = 2 ** (self.bits - 1)
        return np.clip(np.rint(w / step_of(k).astype(np.float64)), -top, top - 1).astype(np.int32)
