"""Low rank: a matrix becomes two thin ones (Denton et al. 2014)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from onnx import NodeProto

from onnxopt import lowrank
from onnxopt.graph import Graph, Site, chains
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Layer, Structural, eighths, matrix_shape, positive, within
from onnxopt.stats import Floats, Stats


@dataclass(frozen=True, slots=True)
class Svd(Structural):
    """``svd{rank=R}``: the weight ``W[outputs, inputs]``, of each group, becomes ``U[outputs, R] V[R, inputs]``.

    A convolution is seen as a matrix: V is the kernel with R outputs, U the 1 x 1 convolution behind it.
    """

    name: ClassVar[str] = "svd"
    rank: int

    def __post_init__(self) -> None:
        positive(rank=self.rank)

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the rank at which there are as many weights as before."""
        if (shape := matrix_shape(site, stats)) is not None:
            _, outputs, inputs = shape
            yield from map(cls, eighths(outputs * inputs / (outputs + inputs)))

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@v``, which the inputs meet, and ``path@u``."""
        layer, path = Layer(graph, site, stats), site.path
        groups, outputs, inputs = layer.matrix.shape
        within("rank", self.rank, min(outputs, inputs))
        batched = not layer.conv and len(layer.shape) > 2
        if batched and not all(chains.meets_matrices(graph.model, node, path) for node in layer.nodes):
            raise Skip("is a batch of matrices that may meet a vector")
        factors = [lowrank.svd(w, self.rank, root) for w, root in zip(layer.matrix, layer.roots(), strict=True)]
        u, v = (np.stack(stack) for stack in zip(*factors, strict=True))

        def product() -> Floats:
            return np.asarray(np.stack([u @ v for u, v in factors]))

        if layer.conv:
            axes = range(len(layer.shape) - 2)
            parts = {
                "v": v.reshape(groups * self.rank, *layer.shape[1:]),
                "u": u.reshape(groups * outputs, self.rank, *(1 for _ in axes)),
            }
            return layer.replace(parts, product, lambda n: chains.convolutions(n, path, [("v", axes), ("u", ())]))
        batch = layer.shape[:-2]
        u, v = u.reshape(*batch, outputs, self.rank), v.reshape(*batch, self.rank, inputs)
        left, right, zero = "u", "v", ""
        if not chains.outputs_first(layer.nodes[0], path):
            left, right, u, v = "v", "u", u.swapaxes(-1, -2), v.swapaxes(-1, -2)
        parts = {"v": v, "u": u}
        if chains.wants_bias(graph.model) and any(node.op_type == "Gemm" for node in layer.nodes):
            zero, parts["zero"] = "zero", np.zeros(1)

        def chain(node: NodeProto) -> list[NodeProto]:
            return chains.products(node, path, left, right, zero)

        return layer.replace(parts, product, chain)
