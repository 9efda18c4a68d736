"""A quantizing pass: one scale for the whole weight."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Affine, nearest_log_step, step_of
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, finite


@dataclass(frozen=True, slots=True)
class Toy(Pass):
    """``toy{bits=b}``: the largest element becomes about ``2^(b-1)``."""

    name: ClassVar[str] = "toy"
    bits: int

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Coarsest first."""
        yield from (cls(bits) for bits in (4, 6, 8))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores the weight as integers. Raises Skip where it is all zeros or not finite."""
        values = graph.values(site.path)
        w = finite(values)
        k = nearest_log_step(np.atleast_1d(np.abs(w).max() / 2 ** (self.bits - 1)))
        graph.store(site.path, Affine(np.rint(w / step_of(k)).astype(np.int32), k, 0, values.dtype))
        return ()
