"""Spatial factors: rows, then columns (Jaderberg et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from onnxopt import lowrank
from onnxopt.graph import Graph, Site, chains
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Layer, Structural, eighths, matrix_shape, positive, within
from onnxopt.stats import Floats, Stats


@dataclass(frozen=True, slots=True)
class Spatial(Structural):
    """``spatial{rank=R}``: a k x l convolution becomes k x 1 to R channels (of each group) and 1 x l from those.

    In three dimensions, the first is split from the other two.
    """

    name: ClassVar[str] = "spatial"
    rank: int

    def __post_init__(self) -> None:
        positive(rank=self.rank)

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the rank at which there are as many weights as before."""
        shape = matrix_shape(site, stats)
        if shape is None or site.op != "Conv" or len(site.shape) < 4 or 1 in (site.shape[2], prod(site.shape[3:])):
            return
        first, second = prod(site.shape[1:3]), shape[1] * prod(site.shape[3:])
        yield from map(cls, eighths(first * second / (first + second)))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@v``, k x 1, and ``path@h``, 1 x l."""
        layer, path = Layer(graph, site, stats), site.path
        if not layer.conv or len(layer.shape) < 4:
            raise Skip("is no convolution of two or more dimensions")
        groups, outputs, _ = layer.matrix.shape
        _, channels, rows, *rest = layer.shape
        columns = prod(rest)
        within("rank", self.rank, min(channels * rows, outputs * columns))
        kernels = layer.matrix.reshape(groups, outputs, channels, rows, columns)
        factors = [lowrank.spatial(k, self.rank, root) for k, root in zip(kernels, layer.roots(), strict=True)]
        v, h = (np.stack(stack) for stack in zip(*factors, strict=True))

        def product() -> Floats:
            return np.asarray(np.einsum("gtrl,grsk->gtskl", h, v, optimize=True).reshape(layer.matrix.shape))

        parts = {
            "v": v.reshape(groups * self.rank, channels, rows, *(1 for _ in rest)),
            "h": h.reshape(groups * outputs, self.rank, 1, *rest),
        }
        links = [("v", [0]), ("h", range(1, 1 + len(rest)))]
        return layer.replace(parts, product, lambda node: chains.convolutions(node, path, links))
