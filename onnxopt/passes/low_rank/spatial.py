"""Spatial factorisation: rows, then columns (Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.graph import Graph, Site
from onnxopt.passes import math
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Form, Layer, Link, Structural, eighths


@dataclass(frozen=True, slots=True)
class Spatial(Structural):
    """``spatial{rank=R}``: a k x l convolution becomes k x 1 to R channels in each group, then 1 x l.

    In three dimensions, the first is separated from the other two.
    """

    name: ClassVar[str] = "spatial"
    rank: int | None = None

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the rank at which the number of weights stays the same."""
        form = Form.known(site, stats)
        if form is not None and len(form.kernel) > 1 and 1 not in _split(form):
            yield from map(cls, eighths(form.elements / cls(1).weights(form)))

    def most(self, form: Form) -> tuple[int, ...]:
        """The shorter side of the unfolding."""
        rows, columns = _split(form)
        return (min(form.channels * rows, form.outputs * columns),)

    def links(self, form: Form) -> list[Link]:
        """Rows, then columns."""
        (rank,), (rows, _), rest = self.ranks, _split(form), form.kernel[1:]
        return [
            Link("v", (form.groups * rank, form.channels, rows, *(1 for _ in rest)), [0]),
            Link("h", (form.groups * form.outputs, rank, 1, *rest), range(1, 1 + len(rest))),
        ]

    @classmethod
    def unfoldings(cls, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """``[channels x rows, outputs x columns]``"""
        rows, columns = _split(form)
        return (math.unfold(w.reshape(form.outputs, form.channels * rows, columns), root),)

    def factors(self, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """``V[rank, channels, rows]`` and ``H[outputs, rank, columns]``."""
        (rank,) = self.ranks
        return math.spatial(w.reshape(form.outputs, form.channels, *_split(form)), rank, root)

    def product(self, form: Form, factors: Sequence[Floats]) -> Floats:
        """The kernel as a matrix."""
        v, h = factors
        return np.asarray(np.einsum("trl,rsk->tskl", h, v, optimize=True).reshape(form.outputs, -1))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@v``, k x 1, and ``path@h``, 1 x l."""
        return Layer(graph, site, stats).factorise_convs(self)


def _split(form: Form) -> tuple[int, int]:
    """Taps along the first axis, and along the others. Raises Skip if there are no others."""
    if len(form.kernel) < 2:
        raise Skip("is no convolution of two or more dimensions")
    return form.kernel[0], prod(form.kernel[1:])
