"""Chooses one candidate for every site. Knows numbers, no graphs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnxopt.plan import Plan, Step


@dataclass(frozen=True, slots=True)
class Candidate:
    """One decision that may be taken at one path, and what it is expected to cost."""

    path: str
    step: Step
    error: float
    """Relative error of the weight, root mean square over root mean square."""


def uniform(model_sha256: str, candidates: Iterable[Candidate], error: float) -> Plan:
    """Without data: at every path the cheapest candidate whose relative error is at most `error`.

    `candidates` come cheapest first within a path. A path without a fitting candidate gets no step.
    """
    steps: dict[str, Step] = {}
    for candidate in candidates:
        if candidate.error <= error and candidate.path not in steps:
            steps[candidate.path] = candidate.step
    return Plan(model_sha256, steps)
