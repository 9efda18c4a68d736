"""Factorises layers into factor chains: applies the structural steps of a plan, once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site
from onnxopt.passes import STRUCTURAL, Skip
from onnxopt.results.events import Chain, Event
from onnxopt.spec.plan import Step


@dataclass(frozen=True, slots=True)
class Factored:
    """The result of factorisation."""

    steps: dict[str, Step] = field(default_factory=dict)
    """The steps that were applied, with their ranks."""
    parts: frozenset[str] = frozenset()
    """Paths of the weights that these steps created."""
    events: tuple[Event, ...] = ()
    """Events of the weights that were replaced."""
    chains: tuple[Chain, ...] = ()
    """The same layers, before and after."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a layer was not factorised, by path."""


def factorise(graph: Graph, wanted: Mapping[str, Step], statistics: Statistics) -> Factored:
    """Factorises layers in `graph`, in place.

    Raises OnnxoptError if a step names a pass or a weight that does not exist, or if another step follows it.
    """
    done, parts, events, reasons = dict[str, Step](), set[str](), list[Event](), dict[str, str]()
    found: list[Chain] = []
    sites = {site.path: site for site in graph.sites()}
    for path, step in wanted.items():
        check_path(path, sites)
        if step.then is not None:
            raise OnnxoptError(f"plan, path {path!r}: nothing can follow {step.name} there; its factors have paths of "
                               "their own")  # fmt: skip
        site, stats = sites[path], statistics.of(sites[path], graph.values(path))
        before = dict(graph.weights())
        try:
            chosen = with_ranks(graph, site, step, stats)
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


def with_ranks(graph: Graph, site: Site, step: Step, stats: Stats) -> Step:
    """A structural step with its ranks chosen. Raises Skip if the layer cannot be factorised."""
    while (found := STRUCTURAL[step.name].from_step(step).with_ranks(graph, site, stats)) != step:
        step = found
    return step


def check_path(path: str, sites: Mapping[str, Site]) -> None:
    """Raises OnnxoptError if the model has no such weight."""
    if path not in sites:
        raise OnnxoptError(f"plan: no weight is called {path!r}; `onnxopt plan` lists this model's weights")
