"""The stage between the search and the file: tunes at a few slopes, and keeps the best file that meets the contract.

The search has found the slope at which the contract is just met without training. A coarser one is tuned and measured
on samples that nothing was trained on; the next slope follows from that, as in the search itself. Every round begins
with the weights that the one before it has found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import inf, sqrt

from onnxopt.build.workspace import Workspace
from onnxopt.build.write_checked import Decided
from onnxopt.data import Spec, open_data, split
from onnxopt.search import slope
from onnxopt.search.contract_search import trial_of
from onnxopt.search.original import HELD_BACK, VALIDATION, Original, Parts
from onnxopt.search.slope import Pace, Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan
from onnxopt.spec.tuning import Tuning
from onnxopt.tuning.budget import Budget
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.trainee import Trainee

_ROUNDS = 4
"""Slopes to tune at, at most."""
_FINER, _NOISIER, _COARSER = 0.5, 2.0, 16.0
"""The first slope over that of the search, where the contract bounds the size, the noise or the drop. Training brings
answers back at steps so coarse that most integers are 0; with finer ones, few weights become 0 that were not before."""
_STRIDE = 2.0
"""Factor between slopes until both sides of the bound are known."""
_NARROW = 1.15
"""Ratio of slopes between which there is nothing to find."""
_ENOUGH, _SLACK = 3, 2.5
"""Of the pace where the size is bounded: after so many rounds, a file that is nearly as large as allowed is taken."""


def tuned(decided: Decided) -> Iterator[Decided]:
    """The decided form with tuned weights, if the user asks for it and it is better; then the form as it was.

    An interrupt from the keyboard ends the training, and what it has found so far counts. Raises OnnxoptError if the
    data cannot be split or read.
    """
    request, original = decided.work.request, decided.original
    if isinstance(request.tune, Tuning) and decided.kept and decided.contract and original and decided.plan.steps:
        rounds = _Rounds(decided, _held_out(original, request.data), decided.contract, request.tune)
        if (found := rounds.run(decided.kept)) is not None:
            yield found
    yield decided


def _held_out(original: Original, data: Spec | None) -> Original:
    """The original with all of the samples that are not held back to train on, and the others to compare files on.

    Training changes scores by much, but not by chance, so what a file loses is counted.
    """
    assert data is not None  # since `Request.checked`
    training, held = split(open_data(data, original.session), HELD_BACK)
    validation, check = held.take(VALIDATION), original.parts.check
    if check is original.parts.validation:
        check = validation
    return replace(original, parts=Parts(training, validation, check), counted=True)


@dataclass(frozen=True, slots=True)
class _Round:
    """A tuned model."""

    work: Workspace
    plan: Plan
    trial: Trial


class _Rounds:
    """Rounds of tuning, each at another slope."""

    def __init__(self, decided: Decided, original: Original, contract: Contract, limit: Tuning) -> None:
        self._decided, self._original, self._contract = decided, original, contract
        self._work = decided.work
        self._budget = Budget(limit, _ROUNDS)
        metric = contract.measure()
        loss = Loss(metric is not None and metric.is_accuracy)
        by_heart = original.validation.memorised
        self._trainee = Trainee(decided.work, original.parts.calibration, self._budget, loss, by_heart)
        self._size = contract.size(decided.work.bytes_before)
        self._done: list[_Round] = []
        for path, reason in self._trainee.frozen.items():
            self._work.progress(f"{path} is not tuned: {reason}", 0.9)

    def run(self, kept: Trial) -> Decided | None:
        """The best tuned form that meets the contract; None if there is none, or it is no better than before."""
        try:
            self._search(kept.slope)
        except KeyboardInterrupt:
            self._work.progress("stopped: the best weights so far are kept", 0.9)
        best = self._best()
        if best is None or not self._is_better(best.trial, kept):
            self._work.progress("tuning has found nothing better, so the weights stay as they were", 0.9)
            return None
        trials = (*self._decided.trials, *(one.trial for one in self._done))
        return replace(self._decided, work=best.work, plan=best.plan, kept=best.trial, trials=trials,
                       original=self._original)  # fmt: skip

    def _search(self, start: float) -> None:
        """Tunes at slopes around the coarsest that meets the contract; without tuning, `start` is it."""
        rounds = self._budget.rounds
        if self._size is not None:
            slope.meet_size(self._measure, start * _FINER, self._size, Pace(rounds, _ENOUGH, slack=_SLACK))
            return
        low, high = start, inf
        at = start * (_COARSER if self._contract.promise else _NOISIER)
        while len(self._done) < rounds and high / low > _NARROW:
            low, high = (at, high) if self._is_met(self._measure(at)) else (low, at)
            at = low * _STRIDE if high == inf else max(sqrt(low * high), high / _STRIDE)

    def _measure(self, at: float) -> Trial:
        """Tunes at a slope, and measures the file."""
        count, of = len(self._done) + 1, self._budget.rounds

        def advance(text: str) -> None:
            self._work.progress(f"tuning, round {count} of {of}, slope {at:.2g}: {text}", 0.9)

        work, plan = self._trainee.tune(at, advance)
        size, found = work.try_plan(plan, self._original.validation)
        trial = trial_of(at, size, found)
        self._done.append(_Round(work, plan, trial))
        lost = "" if trial.drop is None else f", drop {trial.likely:.3g} +- {trial.uncertainty:.2g}"
        advance(f"{size:,} bytes, noise {slope.noise(trial):.3g}{lost}: {'kept' if self._is_met(trial) else 'missed'}")
        return trial

    def _best(self) -> _Round | None:
        """Of the rounds that meet the contract, the one with the smallest file or, of a bounded size, the least
        noise."""
        met = [one for one in self._done if self._is_met(one.trial)]
        return min(met, key=lambda one: one.trial.size if self._size is None else slope.noise(one.trial), default=None)

    def _is_met(self, trial: Trial) -> bool:
        if self._size is not None:
            return trial.size <= self._size
        promise = self._contract.promise
        return promise.safe(trial) if promise else slope.noise(trial) <= (self._contract.error or 0.0)

    def _is_better(self, trial: Trial, kept: Trial) -> bool:
        """Whether a file is better than the one without tuning."""
        if self._size is None:
            return trial.size < kept.size
        _, untuned = self._work.try_plan(self._decided.plan, self._original.validation)
        return slope.noise(trial) < slope.noise(trial_of(kept.slope, kept.size, untuned))
