"""Low-rank factorisation: what the passes that replace a layer by a chain of layers share."""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import repeat
from math import prod
from typing import Self

import numpy as np
from onnx import NodeProto

from onnxopt.calibration.stats import Floats, Stats
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site
from onnxopt.graph.rewrite import low_rank_chain
from onnxopt.passes import math
from onnxopt.passes.base import Pass, Skip, correct_bias, finite
from onnxopt.spec.plan import Step


@dataclass(frozen=True, slots=True)
class Form:
    """The dimensions of a weight: ``[outputs, channels, *kernel]`` in each group; a matrix has no kernel."""

    groups: int
    outputs: int
    channels: int
    kernel: tuple[int, ...]

    @classmethod
    def of(cls, site: Site, matrix: Array) -> Self:
        """The form of a weight ``[groups, outputs, inputs]``."""
        groups, outputs, inputs = matrix.shape
        channels, *kernel = site.shape[1:] if site.op == "Conv" else (inputs,)
        return cls(groups, outputs, channels, tuple(kernel))

    @classmethod
    def known(cls, site: Site, stats: Stats) -> Self | None:
        """The form from statistics alone; None if they do not suffice, or such a layer cannot be factorised."""
        if stats.linear is None or site.op not in ("Conv", "Gemm", "MatMul"):
            return None
        return cls.of(site, stats.linear.matrix(np.broadcast_to(np.float32(0), site.shape)))

    @property
    def taps(self) -> int:
        """Elements of the kernel."""
        return prod(self.kernel)

    @property
    def elements(self) -> int:
        """Elements of the whole weight."""
        return self.groups * self.outputs * self.channels * self.taps


@dataclass(frozen=True, slots=True)
class Link:
    """One factor of a low-rank chain."""

    name: str
    """The part in its path, ``path@part``."""
    shape: tuple[int, ...]
    """As a convolution's weight, with all groups."""
    axes: Collection[int] = ()
    """The spatial axes along which it convolves."""


@dataclass(frozen=True, kw_only=True)
class Structural(Pass):
    """Replaces each node that uses a weight by a low-rank chain of nodes with weights ``path@part``.

    `Graph.reset` does not undo it: it runs once, before the statistics of its factors are measured. With statistics of
    the weight it approximates the layer's outputs instead of the weight, and corrects the mean of the remaining error
    in the bias.

    A subclass's own fields are its ranks. If none is given, `with_ranks` chooses one for each unfolding of the weight:
    by `energy`, by `tolerance`, or, without either, by variational Bayes (`math.evbmf`). Groups share their ranks.
    """

    energy: float | None = None
    """Share of the power of each unfolding that its rank keeps, 0 to 1; if the inputs' second moment is known, of the
    power of its outputs."""
    tolerance: float | None = None
    """Noise over signal in the model's outputs that this chain alone may make: its own noise (see `predict`) times the
    layer's gain, to first order."""
    vbmf: float | None = None
    """How far ranks go from full, 0, to those of variational Bayes, 1, the default (weakened ranks: Gusak et al.
    2019, "Automated multi-stage compression of neural networks")."""

    def __post_init__(self) -> None:
        given = dict(self.step().args)
        rules = given.keys() & {"energy", "tolerance", "vbmf"}
        ranks = {name: rank for name, rank in given.items() if name not in rules}
        for name, rank in ranks.items():
            if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
                raise ValueError(f"{name} is {rank}, expected a whole number above 0")
        if len(rules) + bool(ranks) > 1:
            raise ValueError("expected ranks, an energy, a tolerance or a vbmf, and only one of them")
        if ranks and len(ranks) < len(_own(self)):
            raise ValueError("expected all ranks, or none")
        for name in rules:
            share = given[name]
            if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
                raise ValueError(f"{name} is {share}, expected a number above 0 and up to 1")

    @property
    def ranks(self) -> tuple[int, ...]:
        """The ranks; empty if they are still to be chosen."""
        given = (getattr(self, name) for name in _own(self))
        return tuple(rank for rank in given if rank is not None)

    @abstractmethod
    def most(self, form: Form) -> tuple[int, ...]:
        """The largest value of each rank, given the other ranks."""

    @abstractmethod
    def links(self, form: Form) -> list[Link]:
        """The factors, in the order of computation."""

    @classmethod
    @abstractmethod
    def unfoldings(cls, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """The matrix of each rank, for the group ``w[outputs, inputs]``; `root` as in `math.factors`."""

    @abstractmethod
    def factors(self, form: Form, w: Floats, root: Floats | None) -> tuple[Floats, ...]:
        """The factors of a group, in the order of `links`."""

    @abstractmethod
    def product(self, form: Form, factors: Sequence[Floats]) -> Floats:
        """The product of the factors of a group, ``[outputs, inputs]``."""

    def with_ranks(self, graph: Graph, site: Site, stats: Stats) -> Step:
        """The step with ranks; or a step of another pass that suits the weight better, its ranks still to be chosen.

        Raises Skip if the weight cannot be factorised, or the chosen ranks would not reduce the number of weights.
        """
        if self.ranks:
            return self.step()
        layer = Layer(graph, site, stats)
        return self.choose(layer, layer.form, stats).step()

    def choose(self, layer: Layer, form: Form, stats: Stats) -> Self:
        """This decision with ranks. Raises Skip if no ranks reduce the number of weights."""
        type(self)(*(1 for _ in _own(self)))._fewer(form)
        if self.tolerance is not None:
            chosen = self._tolerated(self.tolerance, layer, form, stats)
        elif self.energy is not None:
            chosen = self._clipped((math.energy_rank(s, self.energy) for s in self._spectra(layer, form)), form)
        else:
            chosen = self._clipped(self._bayesian(layer, form), form)
        return chosen._fewer(form)

    def _bayesian(self, layer: Layer, form: Form) -> list[int]:
        """The rank of each unfolding by variational Bayes, or one that is only a part of the way to it."""
        unfoldings = [self.unfoldings(form, w, None) for w in layer.matrix]
        found = [max(map(math.evbmf, groups)) for groups in zip(*unfoldings, strict=True)]
        if 0 in found:
            raise Skip("variational Bayes takes all of it for noise, and finds no rank")
        way, full = 1.0 if self.vbmf is None else self.vbmf, [min(one.shape) for one in unfoldings[0]]
        return [most - round(way * (most - rank)) for most, rank in zip(full, found, strict=True)]

    def _fewer(self, form: Form) -> Self:
        """This decision. Raises Skip if the chain does not have fewer weights than the layer."""
        if self.weights(form) >= form.elements:
            raise Skip(f"{self.step()} would have {self.weights(form)} weights, and it has {form.elements}")
        return self

    def _spectra(self, layer: Layer, form: Form) -> list[Floats]:
        """The spectrum of each unfolding, powers summed over groups."""
        squares = [
            [np.square(math.spectrum(m)) for m in self.unfoldings(form, w, root)]
            for w, root in zip(layer.matrix, layer.roots(), strict=True)
        ]
        return [np.sqrt(np.sum(one, 0)) for one in zip(*squares, strict=True)]

    def _tolerated(self, tolerance: float, layer: Layer, form: Form, stats: Stats) -> Self:
        """The smallest ranks that keep the tolerance, among ranks that drop equal shares of their spectra."""
        if stats.moments is None or not stats.moments.has_whole:
            raise Skip("what its noise does to the outputs was not measured; give --data, or more --max-ram")
        left = [np.square(math.tail(s) / np.linalg.norm(s)) for s in self._spectra(layer, form)]
        shares = np.unique(np.concatenate(left))[::-1]
        noise = self.noise(form, layer.matrix, list(layer.roots()))

        def ranks(index: int) -> list[int]:
            return [int(np.argmax(one <= shares[index])) for one in left]

        def kept(index: int) -> bool:
            return noise(self._clipped(ranks(index), form)) * stats.gain <= tolerance**2

        return self._clipped(ranks(bisect_left(range(len(shares) - 1), True, key=kept)), form)

    def _clipped(self, ranks: Iterable[int], form: Form) -> Self:
        one = type(self)(*(max(1, rank) for rank in ranks))
        return type(self)(*map(min, one.ranks, one.most(form)))

    @classmethod
    def noise(cls, form: Form, matrix: Floats, roots: Sequence[Floats | None]) -> Callable[[Self], float]:
        """A function that gives the noise power of a decision with ranks, in the outputs or, without roots, the weight.

        Arguments:
            matrix: ``[groups, outputs, inputs]``.
            roots: one for each group, as in `math.factors`.
        """

        def power(one: Self) -> float:
            total = 0.0
            for w, root in zip(matrix, roots, strict=True):
                error = w - one.product(form, one.factors(form, w, root))
                total += float(np.square(error if root is None else error @ root).sum())
            return total

        return power

    def predict(self, values: Array, site: Site, stats: Stats) -> float | None:
        """See `Pass`; without the mean of the error, which the bias corrects."""
        promise = self.promise(values, site, stats)
        return None if promise is None else promise(self)

    @classmethod
    def promise(cls, values: Array, site: Site, stats: Stats) -> Callable[[Self], float] | None:
        """`predict` for any decision with ranks; what these share is computed once.

        None if the statistics do not suffice. Raises Skip if the weight cannot be factorised.
        """
        form = Form.known(site, stats)
        if form is None or stats.moments is None or not stats.moments.has_whole or stats.signal <= 0:
            return None
        assert stats.linear is not None
        noise = cls.noise(form, stats.linear.matrix(finite(values)), list(_roots(stats)))
        return lambda one: float(np.sqrt(noise(one) / stats.signal))

    def weights(self, form: Form) -> int:
        """Elements of all factors."""
        return sum(prod(link.shape) for link in self.links(form))

    def macs(self, form: Form, x: Sequence[int], y: Sequence[int]) -> int:
        """Multiply-accumulates of the chain.

        Arguments:
            x: shape of the layer's input.
            y: shape of its output.
        """
        if not form.kernel:
            return prod(y) // (form.groups * form.outputs) * self.weights(form)
        size, total = list(x[2:]), 0
        for link in self.links(form):
            for axis in link.axes:
                size[axis] = y[2 + axis]
            total += y[0] * prod(size) * prod(link.shape)
        return total


def _own(decision: Structural) -> list[str]:
    """Names of the fields that hold ranks."""
    return [field.name for field in fields(decision) if not field.kw_only]


class Layer:
    """A weight that can be factorised, as matrices, with the nodes that use it.

    Raises Skip if it cannot be factorised.
    """

    def __init__(self, graph: Graph, site: Site, stats: Stats) -> None:
        self._graph, self._site, self._stats = graph, site, stats
        values = graph.values(site.path)
        linears = graph.linears().get(site.path)
        self.nodes: list[NodeProto] = low_rank_chain.users(graph.model, site.path)
        ops = {node.op_type for node in self.nodes}
        if linears is None or not (ops == {"Conv"} or ops <= {"Gemm", "MatMul"}):
            raise Skip("is not the weight of convolutions only, or of matrix products only, outside branches and loops")
        if any(list(node.input).count(site.path) > 1 for node in self.nodes):
            raise Skip("is multiplied by itself")
        self.conv = ops == {"Conv"}
        if self.conv and len({len(linear.matrix(values)) for linear in linears}) > 1:
            raise Skip("is shared by convolutions of different groups")
        self.shape = site.shape
        self.matrix: Floats = linears[0].matrix(finite(values))
        """[groups, outputs, inputs]"""
        self.form = Form.of(site, self.matrix)

    def roots(self) -> Iterator[Floats | None]:
        """For each group the root L of its inputs' second moment ``L L^T``; None if that is unknown."""
        moments = self._stats.moments
        if moments is None or not moments.has_whole:
            return repeat(None, len(self.matrix))
        return _roots(self._stats)

    def decompose(self, decision: Structural, form: Form) -> tuple[dict[str, Floats], Callable[[], Floats]]:
        """The factors by name, ``[groups, ...]``, and a function for their product ``[groups, outputs, inputs]``.

        Raises Skip if a rank is larger than the weight allows.
        """
        names = (name.rstrip("_") for name in _own(decision))
        for name, rank, most in zip(names, decision.ranks, decision.most(form), strict=True):
            if rank > most:
                raise Skip(f"{name} is {rank}, but the weight has no more than {most}")
        found = [decision.factors(form, w, root) for w, root in zip(self.matrix, self.roots(), strict=True)]
        links = (link.name for link in decision.links(form))
        stacked = {name: np.stack(factors) for name, factors in zip(links, zip(*found, strict=True), strict=True)}
        return stacked, lambda: np.stack([decision.product(form, factors) for factors in found])

    def factorise_convs(self, decision: Structural) -> tuple[Site, ...]:
        """Replaces every convolution that uses the weight by the convolutions of its factors."""
        factors, product = self.decompose(decision, self.form)
        links, path = decision.links(self.form), self._site.path
        parts = {link.name: factors[link.name].reshape(link.shape) for link in links}
        along = [(link.name, link.axes) for link in links]
        return self.replace(parts, product, lambda node: low_rank_chain.convolutions(node, path, along))

    def replace(
        self, parts: Mapping[str, Array], product: Callable[[], Floats], chain: low_rank_chain.Chain
    ) -> tuple[Site, ...]:
        """Replaces the nodes by chains.

        Arguments:
            parts: the new weights by part.
            product: gives their product ``[groups, outputs, inputs]``; called if a bias can be corrected.
        """
        path, dtype = self._site.path, self._graph.values(self._site.path).dtype
        tensors = {f"{path}@{part}": values.astype(dtype) for part, values in parts.items()}
        linear = self._stats.linear
        alone = len(self.nodes) == 1  # the moments are those of all nodes together
        if linear is not None and linear.bias and self._stats.moments is not None and alone:
            correct_bias(self._graph, self.matrix - product(), self._stats)
            tensors[linear.bias] = self._graph.values(linear.bias)
        try:
            return self._graph.replace(path, tensors, chain)
        except OnnxoptError as error:
            raise Skip(str(error)) from error


def _roots(stats: Stats) -> Iterator[Floats]:
    """See `Layer.roots`."""
    assert stats.moments is not None
    feedback = stats.moments.whole()
    assert feedback is not None
    return map(math.root, feedback, stats.moments.variance)


def eighths(most: float) -> list[int]:
    """Ranks from an eighth to seven eighths of `most`."""
    return sorted({int(most * i / 8) for i in range(1, 8)} - {0})
