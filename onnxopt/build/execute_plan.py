"""Makes plans and runs them over a graph: one step, one pass, one event."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxopt.calibration.collect import Statistics
from onnxopt.errors import OnnxoptError
from onnxopt.results.events import Chain, Event
from onnxopt.graph import Graph, Site, is_depthwise, is_for_value, rounding
from onnxopt.encoding import Array, relative_error
from onnxopt.spec.overrides import Overrides
from onnxopt.passes import PASSES, STRUCTURAL, Pass, Skip
from onnxopt.passes.base import finite
from onnxopt.passes.quantise.codebook import Codebook, Member
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.passes.quantise.integers import Integers
from onnxopt.passes.quantise.uniform import Uniform
from onnxopt.spec.plan import Plan, Step
from onnxopt.search.slope import Candidate
from onnxopt.calibration.stats import Stats

Advance = Callable[[str], None]


def candidates(graph: Graph, sites: Sequence[Site], statistics: Statistics) -> list[Candidate]:
    """What the search weighs, from statistics alone."""
    found = []
    for site in sites:
        values = graph.values(site.path).astype(np.float64)
        power = _power(values, statistics.of(site, values))
        if np.isfinite(power) and power > 0:
            found.append(Candidate(site.path, site.elements, power / site.elements))
    return found


def _power(values: Array, stats: Stats) -> float:
    """Of the model's outputs, relative to them, that the weight makes."""
    if stats.moments is not None:
        return stats.signal * stats.gain
    return float(np.square(values, dtype=np.float64).sum() * stats.gain)


def steps(sites: Sequence[Site], slope: float, overrides: Overrides) -> dict[str, Step]:
    """The quantizing step of every weight at a slope; none for a weight that the user wants left as it is."""
    slope = float(f"{slope:.4g}")
    decided: dict[str, Step] = {}
    for site, override in zip(sites, overrides.without(STRUCTURAL).decided(sites).values(), strict=True):
        if override.skip:
            continue
        one: Pass = Feedback(slope, override.max_bits or 0)
        step = (Uniform(override.error) if override.error is not None else one).step()
        decided[site.path] = step if override.step is None else override.step
    return decided


def integers(steps: Mapping[str, Step], bits: Mapping[str, int]) -> dict[str, Step]:
    """The same steps, but that weights are integers of so many bits at most when the model runs.

    What the user decides for such a weight stands, before it becomes integers. One of no bits gets no step: it is a
    bias, which becomes integers with its weight.
    """
    changed = dict(steps)
    for path, most in bits.items():
        step = changed.pop(path, None)
        if most and step is not None:
            if step.name == Feedback.name and step.then is None:
                decision = Feedback.from_step(step)
                step = replace(decision, max_bits=min(most, decision.max_bits or most)).step()
            changed[path] = Step(step.name, step.args, Integers().step())
    return changed


def chains(sites: Sequence[Site], overrides: Overrides) -> dict[str, Step]:
    """The structural steps that the user wants."""
    wanted = {path: override.step for path, override in overrides.decided(sites).items() if not override.skip}
    return {path: step for path, step in wanted.items() if step is not None and step.name in STRUCTURAL}


def chains_of(plan: Plan) -> dict[str, Step]:
    """The structural steps of a plan."""
    return {path: step for path, step in plan.steps.items() if step.name in STRUCTURAL}


def has_slope(plan: Plan) -> bool:
    """Whether another slope would make another plan: not where the user decides on every weight."""
    return any(one.name == Feedback.name for step in plan.steps.values() for one in step)


@dataclass(frozen=True, slots=True)
class Factored:
    """What became of the layers that were to be chains."""

    steps: dict[str, Step]
    """Those that were carried out, with their ranks."""
    parts: frozenset[str]
    """Paths of the weights that they made."""
    events: tuple[Event, ...]
    """Of the weights that are gone."""
    chains: tuple[Chain, ...]
    """The same layers, before and after."""
    reasons: dict[str, str]
    """By path, why a layer stayed one."""


def factorise(graph: Graph, wanted: Mapping[str, Step], statistics: Statistics) -> Factored:
    """Makes chains of layers, in `graph` itself, for good.

    Raises OnnxoptError where a step names a pass or a weight that does not exist, or anything is to follow it.
    """
    done, parts, events, reasons = dict[str, Step](), set[str](), list[Event](), dict[str, str]()
    found: list[Chain] = []
    sites = {site.path: site for site in graph.sites()}
    for path, step in wanted.items():
        _check_path(path, sites)
        if step.then is not None:
            raise OnnxoptError(f"plan, path {path!r}: nothing can follow {step.name} there; its factors have paths of "
                               "their own")  # fmt: skip
        site, stats = sites[path], statistics.of(sites[path], graph.values(path))
        before = dict(graph.weights())
        try:
            chosen = settled(graph, site, step, stats)
            decision = STRUCTURAL[chosen.name].from_step(chosen)
            made = decision.apply(graph, site, stats)
        except Skip as skip:
            reasons[path] = f"not factored: {skip}"
            continue
        done[path] = chosen
        parts.update(part.path for part in made)
        events.append(Event(path, site.shape, site.op, str(chosen), site.bytes, 0, 0, 0.0))
        factors = [name for name, _ in graph.weights() if name not in before and graph.values(name).ndim > 1]
        after = sum(graph.values(name).size for name in factors)
        found.append(Chain(path, str(chosen), decision.ranks, tuple(factors), site.elements, after))
    return Factored(done, frozenset(parts), tuple(events), tuple(found), reasons)


def settled(graph: Graph, site: Site, step: Step, stats: Stats) -> Step:
    """A structural step with its ranks chosen. Raises Skip where the layer stays one."""
    while (found := STRUCTURAL[step.name].from_step(step).settled(graph, site, stats)) != step:
        step = found
    return step


def run(graph: Graph, plan: Plan, statistics: Statistics, advance: Advance | None = None) -> list[Event]:
    """Applies every quantizing step of `plan` to `graph` as it came; the events know no bytes after coding yet.

    A weight that its pass cannot treat is left as it was, with the reason in its event. Raises OnnxoptError where
    the plan names a pass or a weight that does not exist.
    """
    sites = {site.path: site for site in graph.sites()}
    structural = chains_of(plan)
    passes = {
        path: [_pass_of(path, one) for one in step]
        for path, step in plan.steps.items()
        if path not in structural and not is_for_value(step)
    }
    for path in passes:
        _check_path(path, sites)
    fixed = frozenset(path for path in sites if path not in passes)
    passes = {path: passes[path] for path in sites if path in passes}  # a bias after the weight whose error it takes up
    passes |= _members(graph, passes, sites, statistics)
    graph.reset()
    for value, step in plan.steps.items():
        if not is_for_value(step):
            continue
        if is_depthwise(step):
            graph.prelu_as_convs(value)
        if (pair := rounding(step)) is not None:
            graph.pair(value, pair)
    events = []
    for path in passes:
        values = graph.values(path)
        whole = any(one.name == Integers.name for one in plan.steps[path])  # its bias becomes integers with it
        stats = statistics.of(sites[path], values, frozenset() if whole else fixed)
        events.append(_apply(graph, sites[path], plan.steps[path], passes[path], stats))
        if advance:
            advance(path)
    return events


def _members(
    graph: Graph, passes: Mapping[str, Sequence[Pass]], sites: Mapping[str, Site], statistics: Statistics
) -> dict[str, list[Pass]]:
    """Decisions for weights that share a table with others, once it is known: what comes before it has to be done."""
    groups: dict[tuple[Codebook, np.dtype[Any]], list[str]] = {}
    for path, decisions in passes.items():
        book = next((one for one in decisions if isinstance(one, Codebook) and one.group), None)
        if book is not None:
            groups.setdefault((book, graph.values(path).dtype), []).append(path)
    found = {}
    for (book, _), paths in groups.items():
        graph.reset()
        weights, members = [], []
        for path in paths:
            stats, before = statistics.of(sites[path], graph.values(path)), passes[path][: passes[path].index(book)]
            with suppress(Skip):
                for one in before:
                    one.apply(graph, sites[path], stats)
                values = graph.encoding(path).values()
                finite(values)
                weights.append((values, stats))
                members.append(path)
        for path, own in zip(members, book.shared(weights) if weights else (), strict=True):
            found[path] = [Member(own=own) if one == book else one for one in passes[path]]
    return found


def _check_path(path: str, sites: Mapping[str, Site]) -> None:
    if path not in sites:
        raise OnnxoptError(f"plan: no weight is called {path!r}; `onnxopt plan` lists this model's weights")


def _pass_of(path: str, step: Step) -> Pass:
    if step.name not in PASSES:
        raise OnnxoptError(
            f"plan, path {path!r}: no pass is called {step.name!r}; there is {', '.join(sorted(PASSES))}"
        )
    return PASSES[step.name].from_step(step)


def _apply(graph: Graph, site: Site, step: Step, decisions: Sequence[Pass], stats: Stats) -> Event:
    """Where a pass gives up, what those before it did stands."""
    values = graph.values(site.path)
    reason, predicted, done = "", None, False
    for decision in decisions:
        try:
            predicted = decision.predict(values, site, stats) if len(decisions) == 1 else None
            decision.apply(graph, site, stats)
            done = True
        except Skip as skip:
            reason = str(skip)
            break
    if not done:
        return Event(site.path, site.shape, site.op, "lossless", site.bytes, 0, site.elements, 0.0, reason=reason)
    got = graph.encoding(site.path).values()
    return Event(
        site.path, site.shape, site.op, str(step), site.bytes, 0, site.elements, relative_error(values, got),
        predicted=predicted, measured=_output_error(values, got, stats),
        sensitivity=_power(values, stats) / site.elements, reason=reason,
    )  # fmt: skip


def _output_error(values: Array, got: Array, stats: Stats) -> float | None:
    """Root of noise over signal in the node's outputs, on inputs that the statistics were not computed from."""
    if stats.linear is None or stats.moments is None or not stats.moments.held_back.shape[1]:
        return None
    w, q = (stats.linear.matrix(a.astype(np.float32)) for a in (values, got))
    signal, noise = stats.moments.noise(w), stats.moments.noise(w - q)
    return (noise / signal) ** 0.5 if signal > 0 else None
