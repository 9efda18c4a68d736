"""Runs a plan over a graph: one step, one pass, one event."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from onnxopt.errors import OnnxoptError, first_line
from onnxopt.events import Event
from onnxopt.graph import Graph, Site
from onnxopt.leaf import Array, relative_error, values_of
from onnxopt.passes import PASSES, Pass, Skip
from onnxopt.passes.uniform import Uniform
from onnxopt.plan import Plan, Step
from onnxopt.search import Candidate, spread_error
from onnxopt.stats import Probe, Stats, fill_in

_LEVEL = 0.01  # relative noise at which gains are measured: small enough to add, large enough for float32 to show
_SLACK = 1.02  # noise that is this much over what was asked for is what was asked for
_ROUNDS = 6


def decide(
    graph: Graph, model_sha256: str, error: float, advance: Callable[[str], None] | None = None
) -> tuple[Plan, str]:
    """Without data: uniform grids that together make at most `error` in the outputs on random inputs.

    Weights share the error by their measured noise gains; as gains describe small noise only, the sum is measured
    and all are made finer until it fits. Returns the plan, and why nothing could be measured (empty where it could).
    """
    sites = list(graph.sites())
    measured: dict[str, float] = {}
    reason = ""
    probe = None
    try:
        probe = Probe(graph.model, [site.path for site in sites]) if sites else None
    except Exception as failure:  # our CannotRun, or whatever the runtime says about the user's model
        reason = first_line(failure)
    for site in sites:
        if probe and site.axis is not None:
            noisy = _on_grids(graph, [site], {site.path: _LEVEL})
            measured[site.path] = (probe.error(noisy) / _LEVEL) ** 2
        if advance:
            advance(site.path)
    stats = fill_in(measured, [site.path for site in sites])
    candidates = [Candidate(site.path, site.elements, stats[site.path].gain) for site in sites]
    wished = error
    for _ in range(_ROUNDS):
        errors = spread_error(candidates, wished)
        got = probe.error(_on_grids(graph, sites, errors)) if probe else 0.0
        if got <= error * _SLACK:
            break
        # Half the way: one measurement of noise is itself noisy. Where it broke the model, it says nothing.
        wished *= (error / got) ** 0.5 if np.isfinite(got) else 0.25
    return Plan(model_sha256, {path: Uniform(e).step() for path, e in errors.items()}), reason


def _on_grids(graph: Graph, sites: Iterable[Site], errors: Mapping[str, float]) -> dict[str, Array]:
    weights = {}
    for site in sites:
        values = graph.values(site.path)
        try:
            weights[site.path] = Uniform(errors[site.path]).quantize(values, site.axis).values()
        except Skip:
            weights[site.path] = values
    return weights


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
        raise OnnxoptError(
            f"plan, path {path!r}: no pass is called {step.name!r}; there is {', '.join(sorted(PASSES))}"
        )
    return PASSES[step.name].from_step(step)


def _apply(graph: Graph, site: Site, decision: Pass) -> Event:
    reason, error = "", 0.0
    try:
        decision.apply(graph, site, Stats())
        error = relative_error(graph.values(site.path), values_of(graph.leaves[site.path]))
    except Skip as skip:
        reason = str(skip)
    step = "lossless" if reason else str(decision.step())
    return Event(site.path, site.shape, site.op, step, site.bytes, 0, site.elements, error, reason=reason)
