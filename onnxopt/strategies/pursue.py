"""Tries a strategy's proposals: races each form of the model, then searches again for the same contract."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from onnxopt.build.preparation import Reference
from onnxopt.build.workspace import Workspace
from onnxopt.errors import OnnxoptError, Unsound, first_line
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.measure.clock import Clock
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Step
from onnxopt.spec.progress import Advance
from onnxopt.strategies.base import Outcome, Proposal, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline

_NEAR = 1.5
"""Forms that take so much of the fastest one's time race against it."""


@dataclass(frozen=True, slots=True)
class Pursued:
    """The result of trying a strategy."""

    strategy: Strategy
    base: Baseline
    outcome: Outcome | None
    """The accepted outcome; None if there is none."""
    refused: Refused = field(default_factory=lambda: Refused(""))
    upon: Pursued | None = None
    """What the strategy was added to; None if it was tried alone."""
    together: SpeedRatio | None = None
    """Its time in a race with other accepted forms; None if there was none."""

    @property
    def ratio(self) -> float:
        """Time of the model relative to the one without any strategy; 1 if nothing was accepted, or time not raced."""
        time = self.together or (self.outcome.time if self.outcome else None)
        own = time.ratio if time else 1.0
        return own if self.upon is None else own * self.upon.ratio


def pursue(strategy: Strategy, base: Baseline, clock: Clock) -> Pursued:
    """Tries proposals in turn until one is accepted or the strategy has no more."""
    if reason := base.refusal(strategy.inline_only):
        return Pursued(strategy, base, None, Refused(reason))
    before = base.work.measured_forms
    outcome: Outcome | None = None
    with closing(strategy.proposals(base, clock)) as proposals:
        while True:
            try:
                proposal = next(proposals) if outcome is None else proposals.send(outcome)
            except StopIteration as end:
                refused = end.value
                break
            except (OnnxoptError, MemoryError):
                raise
            except Exception as error:  # the runtime raises classes of its own
                refused = Refused(f"the runtime rejects the model {strategy.phrase}: {first_line(error)}")
                break
            outcome = _tried(strategy, base, clock, proposal)
            if not outcome.reason:
                return Pursued(strategy, base, outcome)
    base.work.forget_since(before)
    return Pursued(strategy, base, None, refused)


def raced_together(found: Sequence[Pursued], clock: Clock) -> list[Pursued]:
    """The same, with times of the accepted forms near the fastest from one race, in which they take turns.

    What a machine does besides changes times between races by more than such forms differ.
    """
    timed = [one for one in found if one.outcome and one.outcome.time]
    near = [one for one in timed if one.ratio <= _NEAR * min(other.ratio for other in timed)]
    if len(near) < 2:
        return list(found)
    base = near[0].base
    told = partial(base.work.progress, "racing the forms of the model against each other")
    forms = [one.base.work.with_steps(_as_raced(one.outcome.variant)) for one in near if one.outcome]
    times = _race(base, forms, clock, lambda share: told(0.6 + 0.1 * share))
    known = dict(zip(map(id, near), times, strict=True))
    return [replace(one, together=known.get(id(one))) for one in found]


def attempts(pursued: Pursued) -> Iterator[Outcome]:
    """The accepted outcome, if any; then the same form with half the allowed drop, in case the first file misses it."""
    outcome, strategy, base = pursued.outcome, pursued.strategy, pursued.base
    if outcome is None:
        return
    yield outcome
    if stricter := base.contract.halved():
        searched = base.search.run(outcome.work, stricter, outcome.proposal.start)
        outcome = _judged(strategy, base, replace(outcome, searched=searched))
        if not outcome.reason:
            yield outcome


def report(pursued: Pursued) -> StrategyReport:
    """The strategy's entry in the results."""
    strategy, outcome, goal = pursued.strategy, pursued.outcome, pursued.base.request.goal
    kept, refused = outcome is not None, pursued.refused
    layers = outcome.variant.layers if outcome else refused.layers
    searched = outcome.searched if outcome else None
    about, time = strategy.about(pursued.base, layers), outcome.time if outcome else refused.time
    return StrategyReport(
        strategy.name, strategy.title, about, goal or "", kept, refused.reason, time,
        searched.trial if searched else None, strategy.columns, layers,
    )  # fmt: skip


def _tried(strategy: Strategy, base: Baseline, clock: Clock, proposal: Proposal) -> Outcome:
    def told(what: str, share: float) -> None:
        base.work.progress(f"{strategy.phrase}: {what}", share)

    work, time, chosen = base.work.telling(told), None, 0
    if proposal.timed:
        try:
            times = _raced(strategy, base, clock, proposal)
        except OnnxoptError as error:  # the runtime rejects the model
            return Outcome(proposal, proposal.variants[0], base.work, str(error))
        chosen = min(range(len(times)), key=lambda i: times[i].ratio)
        time = replace(times[chosen], path=strategy.phrase, against="without")
    outcome = Outcome(proposal, proposal.variants[chosen], base.work, time=time)
    if time is not None and not (time.significant and time.ratio < strategy.worth):
        return replace(outcome, reason=f"the model takes {time.ratio:.3f}x the time {strategy.phrase} "
                                       f"({time.low:.3f} to {time.high:.3f})")  # fmt: skip
    outcome = replace(outcome, work=work.with_steps(outcome.variant.steps))
    if strategy.exact:
        fault = Reference.of(base.work, base.original).fault(outcome.work)
        return replace(outcome, reason=fault and f"{strategy.phrase} the model is not the same: {fault}")
    contract, kept = base.contract, base.kept.trial
    if proposal.noise_budget < 1 and kept.error:
        contract = Contract(error=kept.error * proposal.noise_budget**0.5)
    try:
        searched = base.search.run(outcome.work, contract, proposal.start)
    except Unsound as error:
        return replace(outcome, reason=f"{strategy.phrase} the model is not the same: {error.reason}")
    return _judged(strategy, base, replace(outcome, searched=searched))


def _judged(strategy: Strategy, base: Baseline, outcome: Outcome) -> Outcome:
    searched = outcome.searched
    assert searched is not None
    if not searched.met:
        return replace(outcome, reason=f"the contract cannot be met {strategy.phrase}")
    outcome = strategy.judge(base, outcome)
    if not outcome.reason and searched.trial.size >= base.work.bytes_before:
        return replace(outcome, reason=f"{strategy.phrase} the file would have {searched.trial.size} bytes, and the "
                                       f"source has {base.work.bytes_before}")  # fmt: skip
    return outcome


def _raced(strategy: Strategy, base: Baseline, clock: Clock, proposal: Proposal) -> list[SpeedRatio]:
    """Time of each variant relative to the baseline, as whole models with unquantized weights."""

    def advance(share: float) -> None:
        base.work.progress(f"racing the model {strategy.phrase} against the model without", 0.4 + 0.1 * share)

    forms = (base.work.with_steps(_as_raced(variant)) for variant in proposal.variants)
    return _race(base, forms, clock, advance)


def _as_raced(variant: Variant) -> Mapping[str, Step]:
    return variant.steps if variant.raced is None else variant.raced


def _race(base: Baseline, forms: Iterable[Workspace], clock: Clock, advance: Advance) -> list[SpeedRatio]:
    """Time of each form relative to the baseline."""
    with tempfile.TemporaryDirectory() as folder:
        against = Path(folder) / "without.onnx"
        base.work.write_plain(against)
        paths = []
        for i, form in enumerate(forms):
            paths.append(Path(folder) / f"{i}.onnx")
            form.write_plain(paths[i])
        return clock.race(paths, against, base.sample, advance)
