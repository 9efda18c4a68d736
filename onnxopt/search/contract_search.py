"""Finds the plan that meets a contract: tries slopes, or strengths of a recipe, on whole files until one fits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Protocol

from onnxopt.search import slope
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.knobs import Knobs, turn_alone
from onnxopt.search.original import Original
from onnxopt.search.slope import Candidate, Trial
from onnxopt.spec.contract import DEFAULT_ERROR, Contract
from onnxopt.spec.effort import Effort
from onnxopt.spec.overrides import Overrides, Weight
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Advance, Progress
from onnxopt.spec.promise import Promise
from onnxopt.spec.recipes import GENTLEST, MIDDLE, STRONGEST, Recipe

_FIRST, _LAST = 0.4, 0.9
"""Shares of progress between which trials lie: a part of what is done, by how many are likely to come."""
_BUILT = 0.6
"""Share of a trial that making the file takes, as it is told; the rest is loading and comparing it."""
_TOGETHER = 0.5
"""Share of the allowed loss for the strength common to all layers, if layers are also searched one by one; single
layers get the rest."""
_ENOUGH, _SLACK, _WORTH = 2, 2.5, 0.025
"""Of the pace where little time shall be spent."""
_THOROUGH = 0.4
"""Slack of the pace where time does not matter."""
_CAREFUL = 0.7
"""Share of the noise that the first slope aims at where little time shall be spent. The statistics expect too little,
and so the second slope is far off after a first one that is."""
_GENTLEST = 24
"""Octaves below the first slope at which the search stops where only labels can be compared."""


class Subject(Protocol):
    """A model that plans can be tried on."""

    @property
    def progress(self) -> Progress:
        """Progress callback."""

    @property
    def name(self) -> str:
        """Path of the source file."""

    @property
    def bytes_before(self) -> int:
        """Size of the source file."""

    @property
    def sites(self) -> Sequence[Weight]:
        """The weights that a plan decides on."""

    def candidates(self) -> list[Candidate]:
        """The candidates, before any trial."""

    def steps_at(self, slope: float, overrides: Overrides) -> Mapping[str, Step]:
        """The quantizing step of every weight, by path."""

    def plan(self, slope: float, overrides: Overrides) -> Plan:
        """Every decision at one slope."""

    def in_eight_bits(self, plan: Plan) -> Plan:
        """The same plan with 8 bits for each element of the matrices that the slope decides on."""

    def try_plan(self, plan: Plan, evaluator: Evaluator | None, advance: Advance) -> tuple[int, Comparison | None]:
        """Size of a plan's file in bytes and, with an evaluator, its comparison with the original."""


@dataclass(frozen=True, slots=True)
class Searched:
    """The result of a search."""

    trial: Trial
    """The trial to keep: it meets the contract, or comes closest."""
    met: bool
    plan: Plan
    """The plan of this trial."""
    trials: tuple[Trial, ...]
    """All trials, in order."""

    def nearest(self, name: str, contract: Contract) -> str:
        """The error message for a missed contract."""
        found = [f"{self.trial.size} bytes"]
        found += [] if self.trial.error is None else [f"noise over signal {self.trial.error:.3g}"]
        found += [] if self.trial.drop is None else [f"a drop of {self.trial.drop:.3g}"]
        return (f"{name}: {contract} cannot be met: the nearest of {len(self.trials)} tries has {', '.join(found)}; "
                "nothing was written (--allow-miss writes it)")  # fmt: skip


@dataclass(frozen=True)
class ContractSearch:
    """Searches plans for one user request. `run` has no side effects on this object.

    With a recipe, the search varies its strength instead of a slope. Without a bound, there is no search.
    """

    overrides: Overrides
    recipe: Recipe | None
    original: Original | None
    """The reference for comparisons; None if the model does not run."""
    effort: Effort = Effort.DEFAULT

    def run(self, subject: Subject, contract: Contract, start: float | None = None) -> Searched:
        """The plan that meets a contract with the fewest bytes, or the one that comes closest.

        Arguments:
            start: the slope to start with, if known.
        """
        return _Run(self, subject, contract, start).searched()


class _Run:
    """One search and its trials so far."""

    def __init__(self, search: ContractSearch, subject: Subject, contract: Contract, start: float | None) -> None:
        self._overrides, self._recipe, self._original = search.overrides, search.recipe, search.original
        self._subject, self._contract, self._begin = subject, contract, start
        self._fast = search.effort is Effort.FAST
        self._slack = _THOROUGH if search.effort is Effort.BEST else 1.0
        self._knobs = None if search.recipe is None else Knobs(search.recipe)
        self._trials: list[Trial] = []
        self._tried: dict[str, Trial] = {}
        self._left = 1.0
        """Trials that are likely to come, the next one included."""

    def searched(self) -> Searched:
        trial, met = self._searched()
        plan = self._subject.plan(trial.slope, self._rules(trial.slope, self._knobs))
        if met and self._contract.max_drop and self._recipe is None:
            trial, plan = self._or_eight_bits(trial, plan)
        return Searched(trial, met, plan, tuple(self._trials))

    def _or_eight_bits(self, trial: Trial, plan: Plan) -> tuple[Trial, Plan]:
        """The trial and its plan, or matrices with 8 bits a weight, if such a file is smaller and keeps the promise.

        A file that few samples made cautious may be larger than what others do without any.
        """
        evaluator, simple = self._original.validation if self._original else None, self._subject.in_eight_bits(plan)
        size, _ = self._subject.try_plan(simple, None, lambda share: None)
        if size >= trial.size or evaluator is None:
            return trial, plan
        size, found = self._subject.try_plan(simple, evaluator, lambda share: None)
        other = trial_of(trial.slope, size, found)
        self._trials.append(other)
        promise = self._contract.promise
        return (other, simple) if promise and promise.safe(other) else (trial, plan)

    def _searched(self) -> tuple[Trial, bool]:
        start, most, ends = self._start(), slope.MOST_TRIALS, slope.ANYWHERE
        if self._recipe is not None:
            ends = GENTLEST, STRONGEST
            most = most if self._recipe.searched else 1
        elif self._subject.plan(1.0, self._overrides) == self._subject.plan(2.0, self._overrides):
            most = 1  # user rules decide every weight
        pace = self._pace(most, ends)
        size = self._contract.size(self._subject.bytes_before)
        if size is not None:
            best = slope.meet_size(lambda at: self._measure(at, None), start, size, pace)
            return best or min(self._trials, key=lambda t: t.size), best is not None
        if self._original is None:  # the model does not run, so only the formula is left
            return self._measure(start, None), True
        evaluator = self._original.validation
        if self._contract.error is not None and not evaluator.measurable:
            return self._gently(start, evaluator, self._contract.error)
        if not self._contract.bounded:
            return self._measure(start, evaluator), True
        share = _TOGETHER if self._recipe is not None and self._recipe.layers else 1.0

        def measure(at: float) -> Trial:
            return self._measure(at, evaluator)

        if self._contract.error is not None:
            noise = self._contract.error
            best = slope.meet_error(measure, start, noise * share**0.5, pace)
            best = best and self._alone(best, evaluator, lambda trial: slope.noise(trial) <= noise)
            return best or min(self._trials, key=slope.noise), best is not None
        if outlook := evaluator.outlook(Promise(self._contract.max_drop or 0.0, self._contract.confidence)):
            self._subject.progress(outlook, 0.4)
        allowed = self._contract.max_drop or 0.0
        whole, part = (Promise(most, self._contract.confidence) for most in (allowed, allowed * share))
        best = slope.meet_drop(measure, start, part, pace)
        best = best and self._alone(best, evaluator, whole.safe)
        return best or min(self._trials, key=lambda t: t.drop or 0.0), best is not None

    def _pace(self, most: int, ends: tuple[float, float]) -> slope.Pace:
        """How the search proceeds: where little time shall be spent, by what the statistics expect."""
        if not self._fast:
            return slope.Pace(most, ends=ends, slack=self._slack, left=self._expect)
        if self._recipe is not None:
            return slope.Pace(most, _ENOUGH, ends, _SLACK, _WORTH, self._expect)
        weighed, formula = self._subject.candidates(), slope.expected_error
        if self._contract.size(self._subject.bytes_before) is not None:
            formula = slope.expected_bits
        return slope.Pace(most, _ENOUGH, ends, _SLACK, _WORTH, self._expect, lambda at: formula(weighed, at))

    def _expect(self, trials: float) -> None:
        """Hears how many trials are likely to come."""
        self._left = trials

    def _gently(self, start: float, evaluator: Evaluator, most: float) -> tuple[Trial, bool]:
        """A trial at the slope that the weights' own noise suggests, or at a finer one if labels change at that."""
        for octaves in range(0, _GENTLEST, 4):
            trial = self._measure(start * 2.0**-octaves, evaluator)
            if (trial.error or 0.0) <= most:
                return trial, True
        return trial, False

    def _alone(self, best: Trial, evaluator: Evaluator, is_kept: Callable[[Trial], bool]) -> Trial:
        """Turns a recipe's weights and knobs further, one at a time."""
        if self._knobs is None:
            return best
        largest = sorted(self._subject.sites, key=lambda weight: -prod(weight.shape))
        best, self._knobs = turn_alone(
            self._knobs, best, largest, self._subject.steps_at,
            lambda strength, knobs: self._measure(strength, evaluator, knobs), is_kept,
        )  # fmt: skip
        return best

    def _start(self) -> float:
        """The slope or strength to start with."""
        if self._recipe is not None:
            return MIDDLE
        if self._begin is not None:
            return self._begin
        weighed = self._subject.candidates()
        size = self._contract.size(self._subject.bytes_before)
        if size is not None:
            return slope.slope_where(lambda at: slope.expected_bits(weighed, at) / 8, size)
        noise = (self._contract.error or DEFAULT_ERROR) * (_CAREFUL if self._fast else 1.0)
        return slope.slope_where(lambda at: slope.expected_error(weighed, at), noise)

    def _rules(self, at: float, knobs: Knobs | None) -> Overrides:
        """The rules for weights; the user's rules come last."""
        return self._overrides if knobs is None else knobs.rules(at, self._subject.steps_at, self._overrides)

    def _measure(self, at: float, evaluator: Evaluator | None, knobs: Knobs | None = None) -> Trial:
        count, what = len(self._trials), "slope" if self._recipe is None else "strength"
        every, text = count + self._left, f"try {count + 1}, {what} {at:.2g}: {self._why()}"

        def advance(share: float) -> None:
            self._subject.progress(text, _FIRST + (_LAST - _FIRST) * (count + _BUILT * share) / every)

        plan = self._subject.plan(at, self._rules(at, knobs or self._knobs))
        key = plan.to_json()
        if key not in self._tried:  # different strengths may give the same plan
            size, found = self._subject.try_plan(plan, evaluator, advance)
            self._tried[key] = trial_of(at, size, found)
            self._trials.append(self._tried[key])
        return replace(self._tried[key], slope=at)

    def _why(self) -> str:
        """The reason for the next trial, for progress messages."""
        if not self._trials or not self._contract.bounded:
            return "what the statistics promise" if self._recipe is None and self._begin is None else "to begin with"
        last, allowed = self._trials[-1], self._contract
        if last.drop is not None and allowed.max_drop is not None:
            counts = last.likely is None or not allowed.max_drop  # what decides: see `Promise.safe`
            drop, error = (last.drop, last.spread) if counts else (last.likely, last.uncertainty)
            return f"the last one drops by {drop:.3g} +- {error:.2g}, {allowed.max_drop:g} is allowed"
        if last.error is not None and allowed.error is not None:
            return f"the last one left noise {last.error:.3g}, {allowed.error:g} is allowed"
        return f"the last one has {last.size} bytes, {allowed.size(self._subject.bytes_before)} are allowed"


def trial_of(at: float, size: int, found: Comparison | None) -> Trial:
    """The trial of a file at a slope or strength, and of its comparison with the original."""
    if found is None:
        return Trial(at, size, None, None)
    return Trial(at, size, found.difference, found.drop, found.uncertainty, found.likely, found.spread)
