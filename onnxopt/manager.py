"""Runs a plan over a graph: one step, one pass, one event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import prod

from onnxopt.errors import OnnxoptError
from onnxopt.events import Event
from onnxopt.graph import Graph, Site
from onnxopt.leaf import relative_error, values_of
from onnxopt.passes import PASSES, Pass, Skip
from onnxopt.plan import Plan, Step
from onnxopt.search import Candidate
from onnxopt.stats import NO_STATS


def candidates(graph: Graph, decision: Pass, error: float) -> Iterator[Candidate]:
    """The same decision for every site: what there is to choose from without data."""
    for site in graph.sites():
        yield Candidate(site.path, decision.step(), error)


def run(graph: Graph, plan: Plan, advance: Callable[[str], None] | None = None) -> list[Event]:
    """Applies every step of `plan` to `graph`, in order; bytes after coding are not yet known to the events.

    A weight that its pass cannot treat is left as it was, with the reason in its event. Raises OnnxoptError where
    the plan names a pass or a weight that does not exist.
    """
    sites = {site.path: site for site in graph.sites()}
    steps = {path: _pass_of(path, step) for path, step in plan.steps.items()}
    for path in steps:
        if path not in sites:
            raise OnnxoptError(f"plan: no weight is called {path!r}; `onnxopt plan` lists this model's weights")
    events = []
    for path, decision in steps.items():
        if advance:
            advance(path)
        events.append(_apply(graph, sites[path], decision))
    return events


def _pass_of(path: str, step: Step) -> Pass:
    if step.name not in PASSES:
        raise OnnxoptError(f"plan, path {path!r}: no pass is called {step.name!r}; there is {', '.join(sorted(PASSES))}")
    return PASSES[step.name].from_step(step)


def _apply(graph: Graph, site: Site, decision: Pass) -> Event:
    reason, error = "", 0.0
    try:
        decision.apply(graph, site, NO_STATS)
        error = relative_error(graph.values(site.path), values_of(graph.leaves[site.path]))
    except Skip as skip:
        reason = str(skip)
    step = "lossless" if reason else str(decision.step())
    return Event(site.path, site.shape, site.op, step, site.bytes, 0, prod(site.shape), error, reason=reason)

