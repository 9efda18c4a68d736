"""Truncated SVD: a matrix becomes two thin ones (Denton et al. 2014)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from onnx import NodeProto

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.graph import Graph, Site
from onnxopt.graph.rewrite import low_rank_chain
from onnxopt.passes import math
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Form, Layer, Link, Structural, eighths


@dataclass(frozen=True, slots=True)
class Svd(Structural):
    """``svd{rank=R}``: the weight ``W[outputs, inputs]`` of each group becomes ``U[outputs, R] V[R, inputs]``.

    Of a convolution, V is the kernel with R outputs and U a 1 x 1 convolution.
    """

    name: ClassVar[str] = "svd"
    rank: int | None = None

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the rank at which the number of weights stays the same."""
        if (form := Form.known(site, stats)) is not None:
            yield from map(cls, eighths(form.elements / cls(1).weights(form)))

    def most(self, form: Form) -> tuple[int, ...]:
        """The shorter side of the matrix."""
        return (min(form.outputs, form.channels * form.taps),)

    def links(self, form: Form) -> list[Link]:
        """V, then U."""
        (rank,) = self.ranks
        axes = range(len(form.kernel))
        return [
            Link("v", (form.groups * rank, form.channels, *form.kernel), axes),
            Link("u", (form.groups * form.outputs, rank, *(1 for _ in axes))),
        ]

    @classmethod
    def unfoldings(cls, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """The matrix."""
        return (w if root is None else w @ root,)

    @classmethod
    def noise(cls, form: Form, matrix: Floats, roots: Sequence[Floats | None]) -> Callable[[Self], float]:
        """The tail of the spectrum, which is exact."""
        tails = [np.square(math.tail(math.spectrum(w, root))) for w, root in zip(matrix, roots, strict=True)]
        left = np.sum(tails, 0)
        return lambda one: float(left[one.ranks[0]])

    def factors(self, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """``V[rank, inputs]`` and ``U[outputs, rank]``."""
        (rank,) = self.ranks
        u, v = math.svd(w, rank, root)
        return v, u

    def product(self, form: Form, factors: Sequence[Floats]) -> Floats:
        """``U V``"""
        v, u = factors
        return u @ v

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@v``, which comes first, and ``path@u``."""
        layer, path = Layer(graph, site, stats), site.path
        if layer.conv:
            return layer.factorise_convs(self)
        batch = layer.shape[:-2]
        if batch and not all(low_rank_chain.meets_matrices(graph.model, node, path) for node in layer.nodes):
            raise Skip("is a batch of matrices that may meet a vector")
        factors, product = layer.decompose(self, layer.form)
        parts = {name: factor.reshape(*batch, *factor.shape[1:]) for name, factor in factors.items()}
        left, right, zero = "u", "v", ""
        if not low_rank_chain.outputs_first(layer.nodes[0], path):
            left, right = right, left
            parts = {name: factor.swapaxes(-1, -2) for name, factor in parts.items()}
        if low_rank_chain.wants_bias(graph.model) and any(node.op_type == "Gemm" for node in layer.nodes):
            zero, parts["zero"] = "zero", np.zeros(1)

        def chain(node: NodeProto) -> list[NodeProto]:
            return low_rank_chain.products(node, path, left, right, zero)

        return layer.replace(parts, product, chain)
