"""Tucker-2: a convolution on fewer channels (Kim et al. 2016)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.graph import Graph, Site
from onnxopt.graph.rewrite import low_rank_chain
from onnxopt.passes import math
from onnxopt.passes.base import Skip
from onnxopt.passes.structural import Form, Layer, Link, Structural
from onnxopt.spec.plan import Step


@dataclass(frozen=True, slots=True)
class Tucker(Structural):
    """``tucker{in=R3,out=R4}``: a convolution becomes 1 x 1 to R3 channels, its kernel from those to R4, and 1 x 1.

    Ranks are those of each group. A matrix product behind a Flatten counts as the convolution whose kernel is as large
    as its input. Ranks are chosen only for weights of more than one tap; the others become steps of `svd`.
    """

    name: ClassVar[str] = "tucker"
    in_: int | None = None
    out: int | None = None

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """Eighths of the channels of a convolution, as long as these reduce the number of weights."""
        form = Form.known(site, stats)
        if form is None or form.taps == 1:
            return
        for i in range(1, 8):
            one = cls(-(-form.channels * i // 8), -(-form.outputs * i // 8))
            if one.weights(form) < form.elements and all(map(int.__le__, one.ranks, one.most(form))):
                yield one

    def most(self, form: Form) -> tuple[int, ...]:
        """The channels, or the dimension that the other rank leaves."""
        inputs, outputs = self.ranks
        return min(form.channels, outputs * form.taps), min(form.outputs, inputs * form.taps)

    def links(self, form: Form) -> list[Link]:
        """Fewer inputs, the kernel, more outputs."""
        inputs, outputs = self.ranks
        ones = (1,) * len(form.kernel)
        return [
            Link("in", (form.groups * inputs, form.channels, *ones)),
            Link("core", (form.groups * outputs, inputs, *form.kernel), range(len(form.kernel))),
            Link("out", (form.groups * form.outputs, outputs, *ones)),
        ]

    @classmethod
    def unfoldings(cls, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """Along inputs, ``[channels, outputs x taps]``, and along outputs."""
        kernel = w.reshape(form.outputs, form.channels, -1)
        return math.unfold(kernel, root), w if root is None else w @ root

    def factors(self, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """``A[in, channels]``, the core ``[out, in, taps]`` and ``B[outputs, out]``."""
        inputs, outputs = self.ranks
        return math.tucker(w.reshape(form.outputs, form.channels, -1), inputs, outputs, root)

    def product(self, form: Form, factors: Sequence[Floats]) -> Floats:
        """The kernel as a matrix."""
        a, core, b = factors
        return np.asarray(np.einsum("tq,qrp,rs->tsp", b, core, a, optimize=True).reshape(form.outputs, -1))

    def with_ranks(self, graph: Graph, site: Site, stats: Stats) -> Step:
        """See `Structural`; for a weight of one tap, a step of `svd`."""
        if self.ranks:
            return self.step()
        layer = Layer(graph, site, stats)
        flattened = None if layer.conv else _flattened(graph, layer, site.path)
        form = layer.form if flattened is None else _form(layer, flattened)
        return Step("svd", self.step().args) if form.taps == 1 else self.choose(layer, form, stats).step()

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Makes ``path@in``, ``path@core`` and ``path@out``."""
        layer, path = Layer(graph, site, stats), site.path
        if layer.conv:
            return layer.factorise_convs(self)
        flattened = _flattened(graph, layer, path)
        if flattened is None:
            raise Skip("is no convolution, nor one matrix product behind a Flatten of an input whose shape is known")
        form = _form(layer, flattened)
        factors, product = layer.decompose(self, form)
        parts = {link.name: factors[link.name].reshape(link.shape) for link in self.links(form)}
        last = factors["out"][0]
        parts["out"] = last if low_rank_chain.outputs_first(layer.nodes[0], path) else last.T
        return layer.replace(parts, product, lambda node: flattened.chain(node, path, ["in", "core"], "out"))


def _flattened(graph: Graph, layer: Layer, path: str) -> low_rank_chain.Flattened | None:
    node = layer.nodes[0]
    if len(layer.nodes) > 1 or list(node.input).index(path) != 1:
        return None
    return low_rank_chain.flattened(graph.model, node, layer.matrix.shape[2])


def _form(layer: Layer, flattened: low_rank_chain.Flattened) -> Form:
    channels, *kernel = flattened.shape
    return Form(1, layer.form.outputs, channels, tuple(kernel))
