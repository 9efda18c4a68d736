"""What `--tune` takes, from a training of a few updates whose weights are thrown away."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace

from onnxopt.build.workspace import Workspace
from onnxopt.calibration.cache import Cache
from onnxopt.search.original import Original, Parts
from onnxopt.spec.contract import Contract
from onnxopt.spec.tuning import Tuning
from onnxopt.tuning.budget import Budget
from onnxopt.tuning.checkpoint import Checkpoints
from onnxopt.tuning.stage import budget_of, held_out, trainee

_FEW, _HELD = 64, 16
"""Samples that the short training takes, those of an update, and on which its file is compared."""
_PASSES = 3
"""Over them: the first one has the original's outputs to compute, the last one a file to measure."""
_DOUBLED = 3
"""Times the first rounds that training takes at least until it stops paying: these, and as many twice as long."""


@dataclass(frozen=True, slots=True)
class Training:
    """What tuning is likely to take."""

    seconds: float
    at_least: bool
    """Whether it may well take more, because it goes on until it stops paying."""
    pass_seconds: float
    """Of one pass over the training data."""
    rounds: int
    """Of trainings and measured files, at most."""


def training_time(
    work: Workspace, original: Original, contract: Contract, limit: Tuning, slope: float, each: float
) -> Training:
    """Trains a few updates, and scales them to all of the data and of the passes. Its memory is that of any training.

    Arguments:
        work: calibrated.
        original: with all of the data.
        slope: at which to train.
        each: seconds of comparing a file on one sample.

    Raises OnnxoptError if no weight can be tuned, or the data cannot be read.
    """
    whole = held_out(work, original).parts
    training, held = whole.calibration.take(_FEW, cut=True), whole.validation.take(_HELD)
    few = replace(original, parts=Parts(training, held, held), counted=True)
    budget = budget_of(work, contract, limit)
    told = list[float]()

    def advance(text: str) -> None:
        if text.rpartition(": ")[2].startswith("pass "):
            told.append(time.monotonic())

    cache = Cache(f"forecast-{secrets.token_hex(8)}")
    try:
        short = Budget(Tuning(epochs=_PASSES * budget.stages), 1, budget.stages)
        one = trainee(work, few, contract, short, Checkpoints(cache), whole.calibration.count(), slope)
        began = time.monotonic()
        one.tune(slope, contract.size(work.bytes_before), advance)
        took = time.monotonic() - began
    finally:
        cache.close(keep=False)
    passes = [told[i + 1] - told[i] for i in range(0, len(told) - 1, _PASSES)]
    scale = whole.calibration.count() / training.count()
    overhead = max(0.0, took - _PASSES * sum(passes)) + max(0, whole.validation.count() - held.count()) * each
    return _all_of(
        budget, limit, sum(passes) / max(1, len(passes)) * scale, max(1, round(one.updates * scale)), overhead
    )


def _all_of(budget: Budget, limit: Tuning, pass_seconds: float, updates: int, overhead: float) -> Training:
    """The whole tuning.

    Arguments:
        updates: of a pass.
        overhead: seconds of a round beside its passes.
    """
    if limit.seconds is not None:
        rounds = max(1, min(budget.rounds, budget.rounds_of(updates, pass_seconds)))
        return Training(limit.seconds, False, pass_seconds, rounds)
    search = budget.rounds * (budget.stages * budget.passes(updates) * pass_seconds + overhead)
    return Training(search * (_DOUBLED if limit.is_open else 1), limit.is_open, pass_seconds, budget.rounds)
