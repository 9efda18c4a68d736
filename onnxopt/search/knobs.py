"""A recipe's knobs. One strength turns them together; then they are turned one by one.

A recipe that searches varies its strength instead of a slope. Once all knobs together just meet the contract, single
weights (if the recipe says so) and single knobs are turned further, as long as the contract is met.
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
"""Largest number of trials for turning single knobs, and for single weights."""

Decide = Callable[[float, Overrides], Mapping[str, Step]]
"""Gives the quantizing step of every weight under some rules, by path."""


@dataclass(frozen=True, slots=True)
class Knobs:
    """How far a recipe's knobs are turned beyond the common strength."""

    recipe: Recipe
    ahead: Mapping[str, int] = field(default_factory=dict)
    """By knob, the extra steps that it was turned alone."""
    own: Mapping[str, int] = field(default_factory=dict)
    """By weight path, the extra steps that all its knobs were turned."""

    def rules(self, strength: float, decide: Decide, last: Overrides) -> Overrides:
        """The rules at a strength; the user's rules come last."""
        rules = list(self.recipe.at(strength, self.ahead).rules)
        for path, steps in self.own.items():
            if steps:
                step = self.step(path, strength * STEP**steps, decide)
                rules.append(Rule(len(rules) + 1, {"match": escape(path)}, {"step": step}))
        return Overrides((*rules, *last.rules))

    def step(self, path: str, strength: float, decide: Decide) -> Step | None:
        """The recipe's step for a weight; None if the recipe leaves it unchanged."""
        return decide(strength, self.recipe.at(strength, self.ahead)).get(path)


def turn_alone(
    knobs: Knobs,
    best: Trial,
    largest_first: Sequence[Weight],
    decide: Decide,
    measure: Callable[[float, Knobs], Trial],
    is_kept: Callable[[Trial], bool],
) -> tuple[Trial, Knobs]:
    """Turns weights (if the recipe says so) and knobs further, one by one, starting from a common strength.

    Arguments:
        best: the trial with all knobs turned together; it meets the contract.
        measure: runs a trial at a strength with these knobs.
        is_kept: whether a trial meets the contract.

    Returns the last kept trial and its knobs.
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
