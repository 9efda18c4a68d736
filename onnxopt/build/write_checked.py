"""Writes the file of a plan, and checks it, loaded as users load it, before moving it into place."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onnxopt import runtime
from onnxopt.build.checking import Checking, source_session
from onnxopt.build.describe_events import chains, events
from onnxopt.build.workspace import Workspace
from onnxopt.files import write_atomically
from onnxopt.graph import Source
from onnxopt.measure import memory
from onnxopt.request import Request
from onnxopt.results.result import Promised, Result, Stage
from onnxopt.results.strategy import StrategyReport
from onnxopt.results.tuning import TunedPass
from onnxopt.search.original import Original
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan


@dataclass(frozen=True)
class Decided:
    """A plan that may be written, and everything that the result reports about its origin."""

    work: Workspace
    plan: Plan
    contract: Contract | None = None
    """The contract that the finished file has to meet."""
    kept: Trial | None = None
    """The trial that produced the plan; None if the plan is the user's or lossless."""
    met: bool = True
    """Whether this trial met the contract."""
    trials: tuple[Trial, ...] = ()
    """All trials of the search, in order."""
    original: Original | None = None
    """The original model and its data for the check; if None, a few synthetic inputs are used."""
    not_calibrated: str = ""
    """Why there was no calibration; empty if there was."""
    strategies: tuple[StrategyReport, ...] = ()
    tuning: tuple[TunedPass, ...] = ()
    """How weights were trained."""
    allow_miss: bool = False
    """Whether the file is written even if the check misses the contract."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What was tried and given up, besides clean-ups, because the model would not compute the same, and why."""

    @property
    def calibrated(self) -> str:
        """Name of the calibration data; empty if there was none."""
        return self.original.parts.calibration.name if self.original and not self.not_calibrated else ""


def write_checked(decided: Decided, output: Path) -> Result:
    """Writes the file, completely or not at all.

    Raises Missed if the check misses the contract, Unsound if the file does not compute what the source computes,
    OnnxoptError if the file cannot be written or the source does not load.
    """
    work, contract = decided.work, decided.contract
    tries = len(decided.trials) if decided.kept else 0
    writing = f"writing the best of {tries} tries for: {contract}" if tries > 1 else "writing"
    work.progress(writing, 0.9)
    built = work.build(decided.plan, lambda share: work.progress(writing, 0.9 + 0.05 * share))
    original, reason = decided.original, "" if decided.original else decided.not_calibrated
    lossless = not built.plan.steps
    if original and lossless and (runtime.providers_in_use() or work.source.shelf):
        # without outputs of another provider, or of weights in place, which differ in some bits
        session = source_session(work.source, exact=True)
        original = replace(original, session=session, observed=original.observed.visible)
    check = Checking(work.source, original, contract, decided.met, decided.allow_miss, lossless, reason)

    def checked(path: Path) -> None:
        work.progress("checking the file, loaded as a user does", 0.95)
        work.source.rest()
        with runtime.providers(()):  # as a user's first session runs it
            check(path)

    size, unchanged = work.write(built, output, checked)
    if unchanged:
        work.progress("keeping a copy of the source, because compression does not make it smaller", 1.0)
    recipe = work.request.recipe if decided.contract else None
    return _result(
        work.source,
        work.request,
        output,
        bytes_after=size,
        events=() if unchanged else tuple(events(work, built, size)),
        chains=() if unchanged else tuple(chains(work)),
        cleaned=dict(work.cleaned),
        contract=str(contract or ""),
        bounds=contract if contract and contract.bounded else None,
        recipe=recipe.name if recipe else "",
        met=check.met,
        calibrated=decided.calibrated,
        rests_on=_rests_on(decided),
        not_calibrated=decided.not_calibrated,
        trials=decided.trials,
        kept=decided.kept,
        check=check.found,
        not_checked=check.reason,
        promised=_promised(decided, check),
        stages=_stages(work, built.plan, size, check)
        if work.request.detailed and decided.kept and not work.tuned
        else (),
        strategies=decided.strategies,
        unchanged=unchanged,
        plan=built.plan,
        values=work.tuned,
        tuning=decided.tuning,
        left_out={**work.left_out, **decided.left_out},
    )


def _promised(decided: Decided, check: Checking) -> Promised | None:
    """See `Result.promised`."""
    promise, original = decided.contract.promise if decided.contract else None, decided.original
    if promise is None or original is None or check.found is None:
        return None
    return Promised.of(check.found.found, promise, original.validation.outlook(promise))


def _rests_on(decided: Decided) -> str:
    """See `Result.rests_on`."""
    if decided.work.request.data is not None or decided.original is None:
        return ""
    data = decided.original.parts.calibration
    worst = f" of {len(data.laws)} kinds, of which the worst counts" if data.laws else ""
    smaller = " and the file smaller" if data.row_noise < float("inf") else ""
    return (
        f"without data, all is measured on {data.name}{worst}; --data with a few hundred real inputs makes it "
        f"surer{smaller}"
    )


def write_copy(source: Source, request: Request, output: Path, left_out: Mapping[str, str]) -> Result:
    """Writes a copy of the source, where nothing else computes the same.

    Arguments:
        left_out: what was given up, and why.

    Raises OnnxoptError if the file cannot be written or the source does not load.
    """
    check = Checking(source, None, None, met=True, allow_miss=False, lossless=True)
    with write_atomically(output) as temporary:
        temporary.write_bytes(source.copy())
        check(temporary)
        size = temporary.stat().st_size
    plan = Plan(source.sha256)
    return _result(source, request, output, bytes_after=size, events=(), chains=(), cleaned={}, contract="",
                   bounds=None, recipe="", met=True, calibrated="", rests_on="", not_calibrated="", trials=(),
                   kept=None, check=check.found, not_checked=check.reason, promised=None, stages=(), unchanged=True,
                   plan=plan, left_out=dict(left_out))  # fmt: skip


def _result(source: Source, request: Request, output: Path, **found: Any) -> Result:
    """The result, with the fields that depend neither on the plan nor on the check."""
    return Result(
        source=source.path,
        output=output,
        bytes_before=source.size,
        bytes_fp32=source.size_with_floats_of(4),
        bytes_fp16=source.size_with_floats_of(2),
        seconds=time.monotonic() - request.started,
        peak_memory=memory.peak(),
        versions={"onnxopt": version("onnxopt"), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
        request=request.stamp,
        **found,
    )


def _stages(work: Workspace, plan: Plan, size: int, check: Checking) -> tuple[Stage, ...]:
    """The stages of a plan whose file has `size` bytes; empty if it has only one stage."""
    names = max(([one.name for one in step] for step in plan.steps.values()), key=len, default=[])
    stages = []
    for count, stage in enumerate(plan.stages(), 1):
        bytes_, found = size, check.found.found if check.found else None
        if count < len(names):
            work.progress(f"stage {count} of {len(names)}", 0.97)
            bytes_, found = work.try_plan(stage, check.evaluator)
        stages.append(Stage(" > ".join(names[:count]), bytes_, found))
    return tuple(stages) if len(stages) > 1 else ()
