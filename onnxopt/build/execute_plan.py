"""Executes a plan on a graph. Each step is one pass; each weight gets one event."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np

from onnxopt.build.decisions import is_structural, output_power
from onnxopt.build.factorise import check_path
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats, in_parts
from onnxopt.calibration.targets import Targets
from onnxopt.encoding import Array, Encoding, relative_error
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site, Stored, is_depthwise, is_dynamic, is_for_value, rounding
from onnxopt.passes import Pass, Skip, passes_of
from onnxopt.passes.base import finite
from onnxopt.passes.quantise.codebook import Codebook, Member
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.passes.quantise.integers import Integers
from onnxopt.passes.quantise.tuned import Tuned, Values
from onnxopt.pool import Pool, Shared, Threads
from onnxopt.results.events import Event
from onnxopt.spec.plan import Plan, Step

Advance = Callable[[str], None]


@dataclass(frozen=True)
class Known:
    """What passes are told of a model's weights."""

    graph: Shared[Graph]
    statistics: Statistics
    fixed: frozenset[str]
    """Paths of biases that are not to be changed."""


@dataclass(frozen=True)
class _Task:
    """The decisions for one weight, and whether all of its outputs become integers."""

    site: Site
    step: Step
    decisions: Sequence[Pass]

    @property
    def whole(self) -> bool:
        """Whether its bias becomes integers with it."""
        return any(one.name == Integers.name for one in self.step)


def execute_plan(
    graph: Graph,
    plan: Plan,
    statistics: Statistics,
    advance: Advance | None = None,
    tuned: Mapping[str, Encoding] = MappingProxyType({}),
    pool: Pool | None = None,
) -> list[Event]:
    """Applies every quantizing step of `plan` to the original weights of `graph`. The events do not know coded sizes
    yet.

    Arguments:
        tuned: by path, what the last `tuned` of a weight's step gives, and the values of weights without a step.
        pool: where weights are treated; by default, side by side in this process.

    If a pass cannot handle a weight, the weight stays unchanged and its event gives the reason. Raises OnnxoptError if
    the plan names a pass or a weight that does not exist.
    """
    sites = {site.path: site for site in graph.sites()}
    passes = {path: _decisions(path, step) for path, step in plan.steps.items() if not is_structural(step)}
    for path in passes:
        check_path(path, sites)
    fixed = frozenset(path for path in sites if path not in passes)
    passes = {path: passes[path] for path in sites if path in passes}  # a bias follows the weight that it corrects
    passes |= {path: _after_tuning(passes[path], tuned[path]) for path in passes.keys() & tuned.keys()}
    passes |= _members(graph, passes, sites, statistics)
    graph.reset()
    for value, step in plan.steps.items():
        if not is_for_value(step):
            continue
        if is_depthwise(step):
            graph.prelu_as_convs(value)
        if is_dynamic(step):
            graph.round_dynamically(value)
        if (pair := rounding(step)) is not None:
            graph.pair(value, pair)
    pool = pool or Threads()
    known = Known(pool.share(graph), statistics, fixed)
    tasks = [_Task(sites[path], plan.steps[path], decisions) for path, decisions in passes.items()]
    events: dict[str, Event] = {}
    found: Iterator[tuple[Stored, list[Event]]]
    if statistics.targets and any(isinstance(one.decisions[0], Feedback) for one in tasks):
        targets = statistics.targets(graph)
        found = ((graph.stored, [_treated(graph, known, task, targets)]) for task in tasks)
    else:
        found = pool.map(partial(_treated_alone, pool.share(known)), _independent(tasks, statistics))
    for stored, own in found:
        graph.take(stored)
        for event in own:
            events[event.path] = event
            if advance:
                advance(event.path)
    _adjust(graph, passes, statistics, {path: tuned[path].values() for path in tuned.keys() - passes.keys()})
    return [events[path] for path in passes]


def _after_tuning(decisions: Sequence[Pass], values: Encoding) -> list[Pass]:
    """The decisions for a weight, of which those until the last training have given these values."""
    last = max((place for place, one in enumerate(decisions) if isinstance(one, Tuned)), default=len(decisions))
    return [Values(values), *decisions[last + 1 :]]


def _adjust(
    graph: Graph, passes: Mapping[str, Sequence[Pass]], statistics: Statistics, tuned: Mapping[str, Array]
) -> None:
    """Sets tuned biases. What was added to one before its training is in it; what later steps of its weight have added
    is not."""
    later = {statistics.bias(path) for path, decisions in passes.items() if len(decisions) > 1
             and isinstance(decisions[0], Values)}  # fmt: skip
    for path, values in tuned.items():
        added = graph.values(path) - graph.original(path) if path in later else 0
        graph.adjust(path, np.asarray(values + added, values.dtype))


def _independent(tasks: Sequence[_Task], statistics: Statistics) -> list[list[_Task]]:
    """Tasks that must follow each other are in one list: that of a weight and that of its bias."""
    of_bias = {statistics.bias(task.site.path): task.site.path for task in tasks}
    groups: dict[str, list[_Task]] = {}
    for task in tasks:
        groups.setdefault(of_bias.get(task.site.path, task.site.path), []).append(task)
    return list(groups.values())


def _treated_alone(known: Shared[Known], tasks: Sequence[_Task]) -> tuple[Stored, list[Event]]:
    """Applies the passes of some weights to a graph that holds no others."""
    graph = known.value.graph.value.scratch()
    events = [_treated(graph, known.value, task, None) for task in tasks]
    return graph.stored, events


def _treated(graph: Graph, known: Known, task: _Task, targets: Targets | None) -> Event:
    """Applies the passes of one weight."""
    path, statistics = task.site.path, known.statistics
    values = graph.values(path)
    if reason := statistics.unknown.get(path):
        return _kept(task.site, reason)
    stats = statistics.of(task.site, values, frozenset() if task.whole else known.fixed)
    stats = replace(stats, grid=graph.grids.get(path))
    if targets and isinstance(task.decisions[0], Feedback):
        stats = targets.corrected(path, stats)
    return _apply(graph, task.site, task.step, task.decisions, values, stats)


def _members(
    graph: Graph, passes: Mapping[str, Sequence[Pass]], sites: Mapping[str, Site], statistics: Statistics
) -> dict[str, list[Pass]]:
    """Decisions for weights that share a codebook. The steps before the codebook run first, since its table depends on
    them."""
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


def _decisions(path: str, step: Step) -> list[Pass]:
    try:
        return passes_of(step)
    except OnnxoptError as error:
        raise OnnxoptError(f"plan, path {path!r}: {error}") from error


def _apply(graph: Graph, site: Site, step: Step, decisions: Sequence[Pass], values: Array, stats: Stats) -> Event:
    """Applies the passes of one weight, whose original values are given. If one gives up, the results of earlier passes
    stay."""
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
        return _kept(site, reason)
    got = graph.encoding(site.path).values()
    return Event(
        site.path, site.shape, site.op, str(step), site.bytes, 0, site.elements, relative_error(values, got),
        predicted=predicted, measured=_output_error(values, got, stats),
        sensitivity=output_power(values, stats) / site.elements, reason=reason,
    )  # fmt: skip


def _kept(site: Site, reason: str) -> Event:
    """The event of a weight that stays as it was."""
    return Event(site.path, site.shape, site.op, "lossless", site.bytes, 0, site.elements, 0.0, reason=reason)


def _output_error(values: Array, got: Array, stats: Stats) -> float | None:
    """Root of noise over signal in the node's outputs, on held-back inputs."""
    if stats.linear is None or stats.moments is None or not stats.moments.held_back.shape[1]:
        return None
    signal = noise = 0.0
    rows, other = (stats.linear.matrix(a) for a in (values, got))
    for part in in_parts(rows.shape):
        w, q = (a[:, part].astype(np.float32) for a in (rows, other))
        signal, noise = signal + stats.moments.noise(w), noise + stats.moments.noise(w - q)
    return (noise / signal) ** 0.5 if signal > 0 else None
