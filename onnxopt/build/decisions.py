"""The decisions of a plan at one slope, and the kinds of steps in a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Array, square_sum
from onnxopt.graph import Graph, Site, is_for_value
from onnxopt.passes import STRUCTURAL, Pass
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.passes.quantise.integers import Integers
from onnxopt.passes.quantise.uniform import Uniform
from onnxopt.search.slope import Candidate
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Step

_BITS, _FINEST = 8, 1e-18
"""Bits of a simple quantization, and a slope so fine that they alone decide."""
INT32 = 32
"""Marks a bias that becomes an integer together with its weight."""


def candidates(graph: Graph, sites: Sequence[Site], statistics: Statistics) -> list[Candidate]:
    """The search's candidates, from statistics alone."""
    found = []
    for site in sites:
        values = graph.values(site.path)
        power = output_power(values, statistics.of(site, values))
        if np.isfinite(power) and power > 0:
            found.append(Candidate(site.path, site.elements, power / site.elements))
    return found


def output_power(values: Array, stats: Stats) -> float:
    """Share of the model's output power that the weight contributes, to first order."""
    if stats.moments is not None:
        return stats.signal * stats.gain
    return square_sum(values) * stats.gain


def quantizing_steps(sites: Sequence[Site], slope: float, overrides: Overrides) -> dict[str, Step]:
    """The quantizing step of every weight at a slope. Weights that the user excludes get no step."""
    slope = float(f"{slope:.4g}")
    decided: dict[str, Step] = {}
    for site, override in zip(sites, overrides.without(STRUCTURAL).decided(sites).values(), strict=True):
        if override.skip:
            continue
        one: Pass = Feedback(slope, override.max_bits or 0)
        step = (Uniform(override.error) if override.error is not None else one).step()
        decided[site.path] = step if override.step is None else override.step
    return decided


def with_int8(steps: Mapping[str, Step], bits: Mapping[str, int]) -> dict[str, Step]:
    """The steps, changed so that some weights stay integers at run time, with at most the given number of bits.

    A user's decision for such a weight still applies before the weight becomes INT8. A path with `INT32` bits gets no
    step: it is a bias, which becomes an integer together with its weight.
    """
    changed = dict(steps)
    for path, most in bits.items():
        step = changed.pop(path, None)
        if most != INT32 and step is not None:
            if step.name == Feedback.name and step.then is None:
                decision = Feedback.from_step(step)
                step = replace(decision, max_bits=min(most, decision.max_bits or most)).step()
            changed[path] = Step(step.name, step.args, Integers().step())
    return changed


def in_eight_bits(sites: Sequence[Site], steps: Mapping[str, Step]) -> dict[str, Step]:
    """The steps, changed so that matrices that a slope decides on have 8 bits for each element, and no slope."""
    matrices = {site.path for site in sites if len(site.shape) > 1}
    simple = Feedback(_FINEST, _BITS).step()
    return {
        path: simple if path in matrices and step.name == Feedback.name and step.then is None else step
        for path, step in steps.items()
    }


def structural_steps(sites: Sequence[Site], overrides: Overrides) -> dict[str, Step]:
    """The structural steps that the user's rules ask for."""
    wanted = {path: override.step for path, override in overrides.decided(sites).items() if not override.skip}
    return {path: step for path, step in wanted.items() if step is not None and step.name in STRUCTURAL}


def is_structural(step: Step) -> bool:
    """Whether a step changes the model's structure, once, before any weight is quantized."""
    return step.name in STRUCTURAL or is_for_value(step)
