"""The stage between the search and the file: tunes at a few slopes, and keeps the best file that meets the contract.

The search has found the slope at which the contract is just met without training. A coarser one is tuned and measured
on samples that nothing was trained on; the next slope follows from that, as in the search itself. Every round begins
with the weights of the last one that kept the contract.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, sqrt

from onnxopt.build.schedule import Schedule
from onnxopt.build.workspace import Workspace
from onnxopt.build.write_checked import Decided
from onnxopt.calibration.cache import Cache
from onnxopt.data import open_data, split
from onnxopt.results.tuning import TunedPass
from onnxopt.search import slope
from onnxopt.search.contract_search import trial_of
from onnxopt.search.original import HELD_BACK, VALIDATION, Original, Parts
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan
from onnxopt.spec.promise import Promise
from onnxopt.spec.recipes import STRONGEST
from onnxopt.spec.tuning import Tuning
from onnxopt.tuning.budget import Budget
from onnxopt.tuning.checkpoint import Checkpoints, key_of
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.recipe import Staged, trainings
from onnxopt.tuning.student import update_size
from onnxopt.tuning.trainee import Quantized, Setting, Trainee

_ROUNDS = 4
"""Slopes to tune at, at most; where the size is bounded, one is enough, as the price of a bit follows from the size."""
_WORTH = 0.01
"""Share of the bytes, or of the distance from the original, that has to be saved by training twice as long."""
_FINER, _DEEP = 0.25, 8
"""The first slope over that of the search, where the contract bounds the size and the model has one layer. The price of
bits then decides which of them go. The more layers there are, the less their weights move; from so many layers on, too
little for a file that is too large to get smaller without harm."""
_NOISIER, _COARSER = 2.0, 16.0
"""The same where the contract bounds the noise or the drop; nearer where few rounds are there to come back in. Training
brings answers back at steps so coarse that most integers are 0; with finer ones, few weights become 0 that were not
before."""
_STRIDE = 2.0
"""Factor between slopes until both sides of the bound are known."""
_NARROW = 1.15
"""Ratio of slopes between which there is nothing to find."""
_FEW = 1 / 16
"""Share of the samples that is held back where nothing is counted on them."""


def tuned(decided: Decided) -> Iterator[Decided]:
    """The decided form with tuned weights, if the user asks for it and it is better; then the form as it was.

    An interrupt from the keyboard ends the training, and what it has found so far counts. Raises OnnxoptError if the
    data cannot be split or read.
    """
    request, original = decided.work.request, decided.original
    if isinstance(request.tune, Tuning) and decided.kept and decided.contract and original and decided.plan.steps:
        original = held_out(decided.work, original)
        cache = Cache(key_of(decided.work, original.parts))
        killed = True
        try:
            rounds = _Rounds(decided, original, decided.contract, request.tune, Checkpoints(cache))
            found = rounds.run(decided.kept)
            killed = False
        finally:
            cache.close(keep=killed)
        decided = replace(decided, tuning=rounds.curve)
        if found is not None:
            yield replace(found, tuning=rounds.curve)
    if decided.met or decided.allow_miss:
        yield decided


def held_out(work: Workspace, original: Original) -> Original:
    """The original with the samples to train on, and others to compare files on.

    Training changes scores by much, but not by chance, so what a file loses is counted: on the user's data for the
    check if there is some, else on samples that are held back. A bounded size counts nothing, so it leaves more to
    train on.
    """
    request, check = work.request, original.parts.check
    assert request.data is not None  # since `Request.checked`
    is_given = check is not original.parts.validation
    counts = request.contract.size(work.bytes_before) is None and (request.contract.bounded or request.recipe is None)
    few = is_given or not counts
    training, held = split(open_data(request.data, original.session), _FEW if few else HELD_BACK)
    validation = check if is_given else held.take(VALIDATION)
    return replace(original, parts=Parts(training, validation, check if is_given else validation), counted=True)


def is_once(work: Workspace, contract: Contract) -> bool:
    """Whether one slope is enough, at which the nearest to the original is wanted and not the smallest file."""
    recipe, size = work.request.recipe, contract.size(work.bytes_before)
    return size is not None or not contract.bounded or not (recipe is None or recipe.knobs)


def budget_of(work: Workspace, contract: Contract, limit: Tuning) -> Budget:
    """What is shared among the rounds that a contract needs."""
    recipe = work.request.recipe
    stages = 1 if recipe is None else trainings(work, recipe)
    return Budget(limit, 1 if is_once(work, contract) else _ROUNDS, stages)


def trainee(  # noqa: PLR0913 - what a `Setting` is made of
    work: Workspace, original: Original, contract: Contract, budget: Budget, checkpoints: Checkpoints, samples: int,
    slope: float,
) -> Trainee:  # fmt: skip
    """What is trained: the weights that a slope decides on, or those of a recipe. Raises what `Trainee` raises.

    Arguments:
        samples: for which the size of updates is chosen.
        slope: of the untuned model.
    """
    loss, evaluator = Loss(contract.error is None, work.request.tune_labels), original.validation
    recipe = work.request.recipe
    setting = Setting(original.parts, budget, loss, evaluator.memorised, evaluator, checkpoints, update_size(samples),
                      slope)  # fmt: skip
    return Quantized(work, setting) if recipe is None else Staged(work, setting, recipe)


def keeps(promise: Promise, trial: Trial, nearer: bool) -> bool:
    """Whether a tuned file keeps a promise. Few samples tell little of a drop, but much of a distance: where a file is
    nearer to the original than an untuned one that keeps the promise, its drop needs to be within the bound only as it
    is expected, and not with the confidence that is asked for.

    Arguments:
        nearer: whether it is, by more than chance.
    """
    expected = replace(trial, uncertainty=0.0)
    return promise.safe(expected if nearer else trial)


@dataclass(frozen=True, slots=True)
class _Round:
    """A tuned model."""

    work: Workspace
    plan: Plan
    trial: Trial
    distance: float
    """See `Trainee.distance`; not measured where the contract bounds noise, and slopes are searched."""


class _Rounds:
    """Rounds of tuning, each at another slope, or at another strength of a recipe."""

    def __init__(
        self, decided: Decided, original: Original, contract: Contract, limit: Tuning, checkpoints: Checkpoints
    ) -> None:
        self._decided, self._original, self._contract = decided, original, contract
        self._work, self._recipe = decided.work, decided.work.request.recipe
        self._size = contract.size(decided.work.bytes_before)
        self._once = is_once(self._work, contract)
        self._budget = budget_of(self._work, contract, limit)
        samples = original.parts.calibration.count()
        slope = decided.kept.slope if decided.kept else 1.0
        self._trainee = trainee(self._work, original, contract, self._budget, checkpoints, samples, slope)
        self._done: list[_Round] = []
        self._curve: list[TunedPass] = []
        self._epochs = 0
        for path, reason in self._trainee.frozen.items():
            self._work.progress(f"{path} is not tuned: {reason}", 0.9)

    @property
    def curve(self) -> tuple[TunedPass, ...]:
        """The file after the passes of all rounds."""
        return tuple(self._curve)

    def run(self, kept: Trial) -> Decided | None:
        """The best tuned form that meets the contract; None if there is none, or it is no better than before."""
        try:
            self._search(kept.slope)
            while self._budget.is_open and self._paid(kept):
                self._budget.lengthen()
                best = self._best()
                self._search(best.trial.slope if best else kept.slope)
        except KeyboardInterrupt:
            self._work.progress("stopped: the best weights so far are kept", 0.9)
        if isinstance(schedule := self._work.request.progress, Schedule):
            schedule.pause(0.0)
        best = self._best()
        if best is None or not self._is_better(best, kept):
            self._work.progress("tuning has found nothing better, so the weights stay as they were", 0.9)
            return None
        trials = (*self._decided.trials, *(one.trial for one in self._done))
        return replace(self._decided, work=best.work, plan=best.plan, kept=best.trial, trials=trials, met=True,
                       original=self._original)  # fmt: skip

    def _search(self, start: float) -> None:
        """Tunes at slopes around the coarsest that meets the contract; until now, `start` is it."""
        self._began = len(self._done)
        if self._once:
            layers, follows = self._trainee.layers, self._recipe or self._began
            self._measure(start if follows or layers >= _DEEP else start * _FINER ** (1 / layers))
            return
        low, high, at = start, inf, start * self._first()
        while len(self._done) < self._began + self._budget.rounds and high / low > _NARROW:
            if self._is_met(self._measure(at)):
                low = at
            else:
                high = at
                self._trainee.forget()  # between coarse steps, weights are far from the finer ones that were good
            at = low * _STRIDE if high == inf else max(sqrt(low * high), high / _STRIDE)
            if self._recipe and at >= STRONGEST:
                return

    def _first(self) -> float:
        """The first slope to tune at, over that of the search."""
        if not self._decided.met:
            return 1.0
        if self._began or self._recipe:
            return _STRIDE
        furthest = _COARSER if self._contract.promise else _NOISIER
        return float(furthest ** (self._budget.rounds / _ROUNDS))

    def _paid(self, kept: Trial) -> bool:
        """Whether the last search was worth its time, or is the first."""
        before = self._best(self._done[: self._began])
        if not self._began:
            return True
        now = self._best()
        if now is None or before is None:
            return now is not before
        old, new = (before.distance, now.distance) if self._once else (before.trial.size, now.trial.size)
        return new < (1 - _WORTH) * old

    def _measure(self, at: float) -> _Round:
        """Tunes at a slope, and measures the file."""
        of = "" if self._budget.is_open else f" of {self._budget.rounds}"
        what = "slope" if self._recipe is None else "strength"
        where = f"tuning, round {len(self._done) + 1}{of}, {what} {at:.2g}"

        def advance(text: str) -> None:
            self._work.progress(f"{where}: {text}", 0.9)

        try:
            work, plan = self._trainee.tune(at, self._size, advance)
        finally:
            self._noted()
        size, compared = work.try_plan(plan, self._original.validation)
        trial = trial_of(at, size, compared)
        distance = self._trainee.distance(work, plan) if self._once or self._contract.promise else 0.0
        found = _Round(work, plan, trial, distance)
        self._done.append(found)
        lost = "" if trial.drop is None else f", drop {trial.likely:.3g} +- {trial.uncertainty:.2g}"
        advance(f"{size:,} bytes, noise {slope.noise(trial):.3g}{lost}: {'kept' if self._is_met(found) else 'missed'}")
        if self._trainee.stopped:
            raise KeyboardInterrupt
        return found

    def _noted(self) -> None:
        """Adds what the last round has measured to the curve. Passes are counted over all trainings."""
        before = 0
        for one in self._trainee.curve:
            self._epochs += one.passes - before if one.passes > before else one.passes
            before = one.passes
            self._curve.append(
                TunedPass(self._epochs, len(self._done) + 1, one.distance, one.size, one.error, one.drop)
            )
        self._trainee.curve.clear()

    def _best(self, among: Sequence[_Round] | None = None) -> _Round | None:
        """Of rounds that meet the contract, the one with the smallest file or, where one slope is enough, the one that
        is nearest to the original."""
        met = [one for one in (self._done if among is None else among) if self._is_met(one)]
        return min(met, key=lambda one: one.distance if self._once else one.trial.size, default=None)

    def _is_met(self, one: _Round) -> bool:
        """Whether a file keeps the contract."""
        if self._size is not None:
            return one.trial.size <= self._size
        if not self._contract.bounded:
            return True
        if (promise := self._contract.promise) is None:
            return slope.noise(one.trial) <= (self._contract.error or 0.0)
        return keeps(promise, one.trial, self._decided.met and self._is_nearer(one))

    def _is_nearer(self, one: _Round) -> bool:
        """Whether a file is nearer to the original than the one without tuning, by more than chance."""
        return one.distance < (1 - self._trainee.doubt) * self._untuned

    @cached_property
    def _untuned(self) -> float:
        """Distance of the file without tuning."""
        return self._trainee.distance(self._work, self._decided.plan)

    def _is_better(self, best: _Round, kept: Trial) -> bool:
        """Whether a file is better than the one without tuning."""
        if not self._decided.met:
            return True
        if self._once:
            return self._is_nearer(best)
        return best.trial.size < kept.size
