"""INT8 weights at run time: int8 tensors with DequantizeLinear, which INT8 kernels fuse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Affine
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass, Skip

_TOP = 127


@dataclass(frozen=True, slots=True)
class Integers(Pass):
    """``integers``: the layer runs in INT8 if its inputs and outputs are rounded, too (``qdq``).

    It follows a step that puts the weight on a grid of at most 8 bits: ``feedback{slope=2e-8,max_bits=8} > integers``.
    """

    name: ClassVar[str] = "integers"

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """No decisions: alone, the pass changes nothing."""
        yield from ()

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Keeps the weight INT8. Raises Skip if the weight has no grid or more than 8 bits."""
        stored = graph.encoding(site.path)
        if not isinstance(stored, Affine):
            raise Skip("its weights are on no grid, so they stay floats when the model runs")
        top = max(int(stored.q.max()), -int(stored.q.min()))
        if top > _TOP:
            raise Skip(f"its weights reach {top} steps, and int8 holds {_TOP}, so they stay floats when the model runs")
        graph.keep_integers(site.path)
        return ()
