"""A recipe's knobs: turned together by one strength, then one by one.

A recipe that searches has its strength in the place of the slope. From where all knobs together just meet the contract,
weights (where the recipe says so) and single knobs go on alone, as far as the contract lasts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape

from onnxopt.search import slope
from onnxopt.search.slope import Trial
from onnxopt.spec.overrides import Overrides, Rule, Weight
from onnxopt.spec.plan import Step
from onnxopt.spec.recipes import STEP, STRONGEST, Recipe

_KNOB_TURNS, _LAYER_TURNS = 12, 20
"""Trials at most for knobs, and for single weights, that go on alone."""

Decide = Callable[[float, Overrides], Mapping[str, Step]]
"""The quantizing step of every weight under some rules, by path."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """How far a recipe's knobs are turned beyond the common strength."""

    recipe: Recipe
    ahead: Mapping[str, int] = field(default_factory=dict)
    """By knob, steps that it has gone on alone."""
    own: Mapping[str, int] = field(default_factory=dict)
    """By the path of a weight, steps that all its knobs have gone on alone."""

    def rules(self, strength: float, decide: Decide, last: Overrides) -> Overrides:
        """What is decided at a strength, the user's own rules last."""
        rules = list(self.recipe.at(strength, self.ahead).rules)
        for path, steps in self.own.items():
            if steps:
                step = self.step(path, strength * STEP**steps, decide)
                rules.append(Rule(len(rules) + 1, {"match": escape(path)}, {"step": step}))
        return Overrides((*rules, *last.rules))

    def step(self, path: str, strength: float, decide: Decide) -> Step | None:
        """What the recipe does to a weight; None where it leaves it as it is."""
        return decide(strength, self.recipe.at(strength, self.ahead)).get(path)


def turn_alone(
    knobs: Knobs,
    best: Trial,
    largest_first: Sequence[Weight],
    decide: Decide,
    measure: Callable[[float, Knobs], Trial],
    is_kept: Callable[[Trial], bool],
) -> tuple[Trial, Knobs]:
    """Weights, where the recipe says so, and knobs go on one by one from where all are together.

    Arguments:
        best: the trial where all knobs are turned together; it meets the contract.
        measure: the trial at a strength with these knobs.
        is_kept: whether a trial meets the contract.

    Returns the last trial that was kept, and its knobs.
    """
    recipe, strength = knobs.recipe, best.slope

    def tried(steps: int, further: Knobs) -> Trial | None:
        return None if strength * STEP ** (steps - 1) >= STRONGEST else measure(strength, further)

    if recipe.layers:
        together = replace(knobs, ahead={})
        paths = [weight.path for weight in largest_first if together.step(weight.path, strength, decide)]
        best, own = slope.in_turns(
            best, paths, lambda path, steps: tried(steps[path], Knobs(recipe, {}, steps)), is_kept, _LAYER_TURNS
        )
        knobs = Knobs(recipe, {}, own)
    names = list(recipe.knobs) if len(recipe.knobs) > 1 else []
    gone = knobs.own
    best, ahead = slope.in_turns(
        best, names, lambda knob, steps: tried(steps[knob], Knobs(recipe, steps, gone)), is_kept, _KNOB_TURNS
    )
    return best, Knobs(recipe, ahead, gone)
