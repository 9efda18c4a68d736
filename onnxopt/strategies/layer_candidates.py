"""Candidate replacements of each layer: factor chains by any structural pass, with their noise, weights and time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, prod
from statistics import median

import numpy as np
import onnx
from onnx import helper

from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.data import quiet_session
from onnxopt.encoding import Array, Encoding
from onnxopt.graph import WEIGHT, Graph, Site, embed, expose, extract_layer
from onnxopt.measure.clock import Clock
from onnxopt.passes import STRUCTURAL, Skip, Structural
from onnxopt.passes.base import matrix
from onnxopt.passes.quantise.nbits import NBits
from onnxopt.passes.structural import Form
from onnxopt.pool import Shared
from onnxopt.search.allocation import Layer, LayerOption, Part
from onnxopt.spec.plan import Step

_RANK_FACTORS = (1.5, 0.75, 0.5, 0.25, 0.125)
"""Extra ranks to try, as multiples of the lowest rank that a pass offers: a wide matrix may need only a low rank."""
_LANES = 8
"""If time counts, ranks are multiples of this, as the runtime's kernels compute 8 or 16 channels at once."""
_MOST_MACS = 0.9
"""Largest share of a layer's multiply-accumulates that a factor chain may need: with more it is not faster."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """A weight that may be factorised."""

    site: Site
    values: Array
    stats: Stats
    form: Form
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Input and output shapes of each node that uses the weight."""

    def macs(self, decision: Structural) -> int:
        """Multiply-accumulates of a factor chain in one run."""
        return sum(decision.macs(self.form, x, y) for x, y in self.shapes)


class LayerCandidates:
    """Candidates for the layers of one model.

    Arguments:
        graph: the model.
        sample: inputs for one run, which gives the shapes.
        most: noise-to-signal ratio of the outputs, in power, above which a factor chain is useless.
        clock: measures time; None if time does not count.
    """

    def __init__(
        self,
        graph: Shared[Graph],
        statistics: Statistics,
        sample: Mapping[str, Array],
        most: float,
        clock: Clock | None,
    ) -> None:
        self._shared, self._statistics, self._most, self._clock = graph, statistics, most, clock
        self._linears = self._graph.linears()
        values = {name for uses in self._linears.values() for use in uses for name in (use.x, use.y)}
        self._shapes = _shapes(self._graph.model, values, sample)
        self._times: dict[bytes, dict[Structural, tuple[float, float]]] = {}
        """Milliseconds of the unchanged layer and of each factor chain, measured in turns, by layer outline."""

    @property
    def _graph(self) -> Graph:
        return self._shared.value

    def of(self, site: Site, free: bool) -> Layer:
        """A weight and, if it is `free` to change, the factor chains that may replace its layer."""
        values = self._graph.original(site.path)  # whatever a trial has stored
        stats = self._statistics.of(site, values)
        form = Form.known(site, stats)
        shapes = [(self._shapes[use.x], self._shapes[use.y]) for use in self._linears.get(site.path, ())]
        macs = 0 if form is None else sum(prod(y) * form.channels * form.taps for _, y in shapes)
        whole = LayerOption("", (_part(values, site, stats),), 0.0, macs)
        if form is None or not free:
            return Layer(site.path, whole)
        weight = _Weight(site, values, stats, form, shapes)
        try:
            return Layer(site.path, *self._chains(weight, whole))
        except Skip as skip:
            return Layer(site.path, whole, reason=str(skip))

    def _chains(self, weight: _Weight, whole: LayerOption) -> tuple[LayerOption, tuple[LayerOption, ...]]:
        """The layer with its time, and all factor chains worth considering. Raises Skip if there are none."""
        offered = [one for cls in STRUCTURAL.values() for one in self._space(cls, weight)]
        times: dict[Structural, float] = {}
        if self._clock is not None:
            offered = [one for one in offered if weight.macs(one) <= _MOST_MACS * whole.macs]
        if not offered:
            raise Skip("no factor chain is smaller" + f", with ranks in steps of {_LANES}" * (self._clock is not None))
        if self._clock is not None:
            measured = self._measured(weight, offered)
            whole = replace(whole, ms=median(before for before, _ in measured.values()))
            times = {one: (whole.ms or before) * after / before for one, (before, after) in measured.items()}
        found = []
        for cls in STRUCTURAL.values():
            promise = None
            for one in (decision for decision in offered if type(decision) is cls):
                noise, ms = inf, times.get(one)
                if ms is None or whole.ms is None or ms < whole.ms:
                    promise = promise or cls.promise(weight.values, weight.site, weight.stats)
                    if promise is None:
                        raise Skip("what its noise does to the outputs is not known; give --data, or more --max-ram")
                    noise = promise(one) ** 2 * weight.stats.signal * weight.stats.gain
                parts = tuple(_parts(one, weight.form, whole.parts[0]))
                found.append(LayerOption(str(one.step()), parts, noise, weight.macs(one), ms))
                if self._most < noise < inf:
                    break  # lower ranks only add noise
        return whole, tuple(found)

    def _space(self, cls: type[Structural], weight: _Weight) -> Iterator[Structural]:
        """Decisions of a pass, highest ranks first."""
        ranks = {one.ranks for one in cls.space(weight.site, weight.stats)}
        if ranks:
            fewest = min(ranks)
            ranks |= {tuple(max(1, round(rank * share)) for rank in fewest) for share in _RANK_FACTORS}
        if self._clock is not None:
            ranks = {tuple(max(1, round(rank / _LANES)) * _LANES for rank in one) for one in ranks}
        for one in (cls(*chosen) for chosen in sorted(ranks, reverse=True)):
            fits = all(rank <= most for rank, most in zip(one.ranks, one.most(weight.form), strict=True))
            if fits and one.weights(weight.form) < weight.form.elements:
                yield one

    def _measured(self, weight: _Weight, decisions: Sequence[Structural]) -> dict[Structural, tuple[float, float]]:
        """Times the layer against each factor chain. Layers that differ only in their numbers are measured once.

        Raises Skip if the layer cannot be factorised.
        """
        assert self._clock is not None
        layer = extract_layer(self._graph.model, weight.site.path, self._shapes)
        known = self._times.setdefault(_outline(layer), {})
        feeds, content = _feeds(layer), layer.SerializeToString()
        for one in decisions:
            if one not in known:
                chain = Graph(onnx.ModelProto.FromString(content))
                (site,) = [site for site in chain.sites() if site.path == WEIGHT]
                _placeholder(one, weight.form).apply(chain, site, Stats())
                before, after = self._clock.time_many([content, chain.model.SerializeToString()], feeds)
                known[one] = before, after
        return {one: known[one] for one in decisions}


@dataclass(frozen=True, slots=True)
class WeightOnlyOption:
    """A matrix product with integer weights at run time."""

    step: Step
    ms_before: float
    """Time of one run of the unchanged layer alone."""
    ms: float
    noise: float | None
    """Noise-to-signal ratio of the model's outputs, in power, without the kernel's rounding of inputs; None if
    unknown."""


def weight_only_options(
    graph: Graph, site: Site, stats: Stats, sample: Mapping[str, Array], clock: Clock
) -> list[WeightOnlyOption]:
    """Compares a layer with 4-bit and 8-bit weights to the unchanged layer. `graph` is not modified.

    Arguments:
        sample: inputs for one run, which gives the shapes; times are for the same batch size.

        Raises Skip if the runtime has no such product for the layer.
    """
    offered, trial = list(NBits.space(site, stats)), Graph(graph.model)
    if not offered:
        raise Skip("no matrix product is known of it")
    encodings = []
    for one in offered:
        trial.reset()
        one.apply(trial, site, stats)
        encodings.append(trial.encoding(site.path))
    (use,) = graph.linears()[site.path]
    layer = extract_layer(graph.model, site.path, _shapes(graph.model, {use.x, use.y}, sample))
    models = [layer.SerializeToString()]
    for encoding in encodings:
        other = Graph(onnx.ModelProto.FromString(models[0]))
        other.store(WEIGHT, encoding)
        inner, stored = other.export()
        embed(inner, {name: one.run_time_tensor() for name, one in stored.items()})
        models.append(inner.SerializeToString())
    before, *after = clock.time_many(models, _feeds(layer))
    noises = [_noise(graph.values(site.path), encoding, stats) for encoding in encodings]
    return [
        WeightOnlyOption(one.step(), before, ms, noise) for one, ms, noise in zip(offered, after, noises, strict=True)
    ]


def _noise(values: Array, encoding: Encoding, stats: Stats) -> float | None:
    """Noise of a stored weight on held-back inputs."""
    if stats.linear is None or stats.moments is None or not stats.moments.held_back.shape[1]:
        return None
    signal, made = (stats.moments.noise(stats.linear.matrix(w)) for w in (values, values - encoding.values()))
    return made / signal * stats.signal * stats.gain if signal else None


def _part(values: Array, site: Site, stats: Stats) -> Part:
    """The unchanged weight."""
    squares = np.square(matrix(values.astype(np.float64), site, stats)).mean((1, 2))
    if stats.moments is None:
        power = float(squares.mean() * stats.gain)
        return Part(site.elements, power, power)
    coded = float((squares * stats.moments.variance.mean(1)).mean() * stats.gain)
    return Part(site.elements, max(coded, stats.signal * stats.gain / site.elements), coded)


def _parts(decision: Structural, form: Form, whole: Part) -> Iterator[Part]:
    """The factors of a chain. Each carries the layer's full power; only the first one sees the correlated inputs."""
    for index, link in enumerate(decision.links(form)):
        elements = prod(link.shape)
        power = whole.power * whole.elements / elements
        yield Part(elements, power, power * whole.coded / whole.power if index == 0 and whole.power else power)


def _placeholder(decision: Structural, form: Form) -> Structural:
    """The same decision with placeholder factors, since time does not depend on their values."""
    factors = tuple(np.full((link.shape[0] // form.groups, *link.shape[1:]), 0.01) for link in decision.links(form))
    kind = type("Placeholder", (type(decision),), {"factors": lambda *_: factors})
    made: Structural = kind(*decision.ranks)
    return made


def _outline(layer: onnx.ModelProto) -> bytes:
    """A model without the values of its weights, as bytes."""
    light = onnx.ModelProto()
    light.graph.node.extend(layer.graph.node)
    light.graph.input.extend(layer.graph.input)
    for tensor in layer.graph.initializer:
        light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bytes(light.SerializeToString(deterministic=True))


def _feeds(layer: onnx.ModelProto) -> dict[str, Array]:
    """Random feeds for all inputs."""
    rng, feeds = np.random.default_rng(0), {}
    for value in layer.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(shape, np.float32).astype(kind)
    return feeds


def _shapes(model: onnx.ModelProto, values: set[str], sample: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Shapes of values that the model computes or takes as inputs."""
    made = sorted(values - sample.keys())
    found = quiet_session(expose(model, made)).run(made, dict(sample)) if made else []
    return {name: tuple(value.shape) for name, value in (*sample.items(), *zip(made, found, strict=True))}
