"""Tucker-2: a convolution between fewer channels (Kim et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Self

import numpy as np

from onnxopt import lowrank
from onnxopt.graph import Graph, Site, chains
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Layer, Structural, matrix_shape, positive, within
from onnxopt.stats import Floats, Stats


@dataclass(frozen=True, slots=True)
class Tucker(Structural):
    """``tucker{in=R3,out=R4}``: a convolution becomes 1 x 1 to R3 channels, its kernel from those to R4, and 1 x 1.

    In a convolution of groups, each group has so many. A matrix product behind a Flatten is the convolution whose
    kernel is as large as its input.
    """

    name: ClassVar[str] = "tucker"
    in_: int
    out: int

    def __post_init__(self) -> None:
        positive(**{"in": self.in_, "out": self.out})

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the channels of a convolution, as long as that makes fewer weights."""
        shape, taps = matrix_shape(site, stats), prod(site.shape[2:])
        if shape is None or site.op != "Conv" or taps == 1:
            return
        _, outputs, _ = shape
        inputs = site.shape[1]
        for i in range(1, 8):
            one = cls(-(-inputs * i // 8), -(-outputs * i // 8))
            fewer = inputs * one.in_ + one.in_ * one.out * taps + one.out * outputs < inputs * outputs * taps
            if fewer and one.in_ <= one.out * taps and one.out <= one.in_ * taps:
                yield one

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@in``, ``path@core`` and ``path@out``."""
        layer, path = Layer(graph, site, stats), site.path
        groups, outputs, _ = layer.matrix.shape
        flattened = None if layer.conv else _flattened(graph, layer, path)
        channels, *kernel = layer.shape[1:] if flattened is None else flattened.shape
        within("in", self.in_, min(channels, self.out * prod(kernel)))
        within("out", self.out, min(outputs, self.in_ * prod(kernel)))
        kernels = layer.matrix.reshape(groups, outputs, channels, -1)
        factors = [lowrank.tucker(k, self.in_, self.out, root) for k, root in zip(kernels, layer.roots(), strict=True)]
        a, core, b = (np.stack(stack) for stack in zip(*factors, strict=True))

        def product() -> Floats:
            return np.asarray(np.einsum("gtq,gqrp,grs->gtsp", b, core, a, optimize=True).reshape(layer.matrix.shape))

        ones = [1] * len(kernel)
        parts = {
            "in": a.reshape(groups * self.in_, channels, *ones),
            "core": core.reshape(groups * self.out, self.in_, *kernel),
            "out": b.reshape(groups * outputs, self.out, *ones),
        }
        if flattened is None:
            links = [("in", ()), ("core", range(len(kernel))), ("out", ())]
            return layer.replace(parts, product, lambda node: chains.convolutions(node, path, links))
        parts["out"] = b[0] if chains.outputs_first(layer.nodes[0], path) else b[0].T
        return layer.replace(parts, product, lambda node: flattened.chain(node, path, ["in", "core"], "out"))


def _flattened(graph: Graph, layer: Layer, path: str) -> chains.Flattened:
    node = layer.nodes[0]
    found = None
    if len(layer.nodes) == 1 and list(node.input).index(path) == 1:
        found = chains.flattened(graph.model, node, layer.matrix.shape[2])
    if found is None:
        raise Skip("is no convolution, nor one matrix product behind a Flatten of an input whose shape is known")
    return found
