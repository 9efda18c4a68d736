"""What the layers of a model might become: chains by any structural pass, with their noise, weights and time."""

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
from onnxopt.search.allocation import Layer, LayerOption, Part
from onnxopt.spec.plan import Step

_FEWER = (1.5, 0.75, 0.5, 0.25, 0.125)
"""Times the fewest ranks that a pass offers: a matrix of thousands of columns may need few of them."""
_LANES = 8
"""Ranks are multiples of it where time counts: the runtime's kernels compute so many channels at once, or twice."""
_LESS = 0.9
"""Of a layer's multiply-accumulates: a chain with more is not faster."""


@dataclass(frozen=True, slots=True)
class _Weight:
    """One that may be factored."""

    site: Site
    values: Array
    stats: Stats
    form: Form
    shapes: list[tuple[tuple[int, ...], tuple[int, ...]]]
    """Of what each of its nodes takes and gives."""

    def macs(self, decision: Structural) -> int:
        """Of a chain, in one run."""
        return sum(decision.macs(self.form, x, y) for x, y in self.shapes)


class LayerCandidates:
    """Of the layers of one model.

    Arguments:
        graph: the model.
        sample: inputs that it is run on once, to see shapes.
        most: noise in the outputs, relative to them, in power, above which chains are of no use.
        clock: measures time; None where that does not count.
    """

    def __init__(
        self, graph: Graph, statistics: Statistics, sample: Mapping[str, Array], most: float, clock: Clock | None
    ) -> None:
        self._graph, self._statistics, self._most, self._clock = graph, statistics, most, clock
        self._linears = graph.linears()
        values = {name for uses in self._linears.values() for use in uses for name in (use.x, use.y)}
        self._shapes = _shapes(graph.model, values, sample)
        self._times: dict[bytes, dict[Structural, tuple[float, float]]] = {}
        """Milliseconds of layers whole and as chains, in turns, by all that they depend on."""

    def of(self, site: Site, free: bool) -> Layer:
        """A weight and, where it is `free` to become anything, the chains that its layer might be."""
        values = self._graph.values(site.path)
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
        """The layer with its time, and all chains that are worth a look. Raises Skip where there can be none."""
        offered = [one for cls in STRUCTURAL.values() for one in self._space(cls, weight)]
        times: dict[Structural, float] = {}
        if self._clock is not None:
            offered = [one for one in offered if weight.macs(one) <= _LESS * whole.macs]
        if not offered:
            raise Skip("no chain is smaller" + f", with ranks in steps of {_LANES}" * (self._clock is not None))
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
                    break  # fewer ranks leave out more
        return whole, tuple(found)

    def _space(self, cls: type[Structural], weight: _Weight) -> Iterator[Structural]:
        """Decisions of a pass, those that leave most weights first."""
        ranks = {one.ranks for one in cls.space(weight.site, weight.stats)}
        if ranks:
            fewest = min(ranks)
            ranks |= {tuple(max(1, round(rank * share)) for rank in fewest) for share in _FEWER}
        if self._clock is not None:
            ranks = {tuple(max(1, round(rank / _LANES)) * _LANES for rank in one) for one in ranks}
        for one in (cls(*chosen) for chosen in sorted(ranks, reverse=True)):
            fits = all(rank <= most for rank, most in zip(one.ranks, one.most(weight.form), strict=True))
            if fits and one.weights(weight.form) < weight.form.elements:
                yield one

    def _measured(self, weight: _Weight, decisions: Sequence[Structural]) -> dict[Structural, tuple[float, float]]:
        """The layer against each of its chains; what is alike but for its numbers is measured once.

        Raises Skip where it cannot be factored.
        """
        assert self._clock is not None
        layer = extract_layer(self._graph.model, weight.site.path, self._shapes)
        known = self._times.setdefault(_outline(layer), {})
        feeds, content = _feeds(layer), layer.SerializeToString()
        for one in decisions:
            if one not in known:
                chain = Graph(onnx.ModelProto.FromString(content))
                (site,) = [site for site in chain.sites() if site.path == WEIGHT]
                _hollow(one, weight.form).apply(chain, site, Stats())
                before, after = self._clock.time_many([content, chain.model.SerializeToString()], feeds)
                known[one] = before, after
        return {one: known[one] for one in decisions}


@dataclass(frozen=True, slots=True)
class WeightOnlyOption:
    """A matrix product whose weight is integers when it runs."""

    step: Step
    ms_before: float
    """Of a run of the layer alone, as it is."""
    ms: float
    noise: float | None
    """In the model's outputs, relative to them, in power, but for what the kernel rounds of the inputs; None where it
    is not known."""


def weight_only_options(
    graph: Graph, site: Site, stats: Stats, sample: Mapping[str, Array], clock: Clock
) -> list[WeightOnlyOption]:
    """A layer with integers of 4 and of 8 bits, against the layer as it is. `graph` stays as it is.

    Arguments:
        sample: inputs that the model is run on once, to see shapes; time is that of a batch like it.

    Raises Skip where the runtime has no such product for the layer.
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
    """Of a stored weight, on inputs that nothing was computed from."""
    if stats.linear is None or stats.moments is None or not stats.moments.held_back.shape[1]:
        return None
    signal, made = (stats.moments.noise(stats.linear.matrix(w)) for w in (values, values - encoding.values()))
    return made / signal * stats.signal * stats.gain if signal else None


def _part(values: Array, site: Site, stats: Stats) -> Part:
    """A weight as it is."""
    squares = np.square(matrix(values.astype(np.float64), site, stats)).mean((1, 2))
    if stats.moments is None:
        power = float(squares.mean() * stats.gain)
        return Part(site.elements, power, power)
    coded = float((squares * stats.moments.variance.mean(1)).mean() * stats.gain)
    return Part(site.elements, max(coded, stats.signal * stats.gain / site.elements), coded)


def _parts(decision: Structural, form: Form, whole: Part) -> Iterator[Part]:
    """Of a chain: each carries all that the layer does. What inputs have in common the first factor meets."""
    for index, link in enumerate(decision.links(form)):
        elements = prod(link.shape)
        power = whole.power * whole.elements / elements
        yield Part(elements, power, power * whole.coded / whole.power if index == 0 and whole.power else power)


def _hollow(decision: Structural, form: Form) -> Structural:
    """The same decision, for which any numbers do as factors: time does not depend on them."""
    factors = tuple(np.full((link.shape[0] // form.groups, *link.shape[1:]), 0.01) for link in decision.links(form))
    kind = type("Hollow", (type(decision),), {"factors": lambda *_: factors})
    made: Structural = kind(*decision.ranks)
    return made


def _outline(layer: onnx.ModelProto) -> bytes:
    """All of a model but its numbers."""
    light = onnx.ModelProto()
    light.graph.node.extend(layer.graph.node)
    light.graph.input.extend(layer.graph.input)
    for tensor in layer.graph.initializer:
        light.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return bytes(light.SerializeToString(deterministic=True))


def _feeds(layer: onnx.ModelProto) -> dict[str, Array]:
    """Noise for all inputs."""
    rng, feeds = np.random.default_rng(0), {}
    for value in layer.graph.input:
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = rng.standard_normal(shape, np.float32).astype(kind)
    return feeds


def _shapes(model: onnx.ModelProto, values: set[str], sample: Mapping[str, Array]) -> dict[str, tuple[int, ...]]:
    """Of values that the model computes or takes."""
    made = sorted(values - sample.keys())
    found = quiet_session(expose(model, made)).run(made, dict(sample)) if made else []
    return {name: tuple(value.shape) for name, value in (*sample.items(), *zip(made, found, strict=True))}
