"""Writes the file of a plan, and checks it, loaded as users load it, before moving it into place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from onnxopt.build.describe_events import chains, events
from onnxopt.build.workspace import Workspace
from onnxopt.data import CannotRun, Hints, quiet_session, synthetic
from onnxopt.errors import Missed, first_line
from onnxopt.measure import memory
from onnxopt.results.result import Check, Result, Stage
from onnxopt.results.strategy import StrategyReport
from onnxopt.search import slope
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.original import Original
from onnxopt.search.slope import Trial
from onnxopt.search.worst_law import evaluator_of
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan

_CHECKED = 4
"""Synthetic inputs for checking a file that no search measured."""


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
    allow_miss: bool = False
    """Whether the file is written even if the check misses the contract."""

    @property
    def calibrated(self) -> str:
        """Name of the calibration data; empty if there was none."""
        return self.original.parts.calibration.name if self.original else ""


def write_checked(decided: Decided, output: Path) -> Result:
    """Writes the file, completely or not at all.

    Raises Missed if the check misses the contract, OnnxoptError if the file cannot be written or run.
    """
    work, contract = decided.work, decided.contract
    tries = len(decided.trials) if decided.kept else 0
    writing = f"writing the best of {tries} tries for: {contract}" if tries > 1 else "writing"
    work.progress(writing, 0.9)
    built = work.build(decided.plan, lambda share: work.progress(writing, 0.9 + 0.05 * share))
    check = _Checking(decided)
    size, unchanged = work.write(built, output, check)
    if unchanged:
        work.progress("keeping a copy of the source, because compression does not make it smaller", 1.0)
    recipe = work.request.recipe if decided.contract else None
    return Result(
        source=work.source.path,
        output=output,
        bytes_before=work.source.size,
        bytes_fp16=work.source.size - 2 * work.source.float_elements,
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
        stages=_stages(work, built.plan, size, check) if work.request.detailed and decided.kept else (),
        strategies=decided.strategies,
        unchanged=unchanged,
        seconds=time.monotonic() - work.request.started,
        peak_memory=memory.peak(),
        plan=built.plan,
        versions={"onnxopt": version("onnxopt"), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    )


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


class _Checking:
    """Compares a file with the original, once."""

    def __init__(self, decided: Decided) -> None:
        self._decided, self.met = decided, decided.met
        self.found: Check | None = None
        self.reason = ""
        """Why there was no check; empty if there was."""
        self.evaluator: Evaluator | None = None

    def __call__(self, path: Path) -> None:
        """Checks the file. Raises Missed if it misses the contract."""
        work, contract = self._decided.work, self._decided.contract
        work.progress("checking the file, loaded as a user does", 0.95)
        session = work.load(path)
        try:
            name, self.evaluator = self._opened()
        except CannotRun as error:
            self.reason = str(error)
            return
        found, most = self.evaluator.compare(session), contract.max_drop if contract else None
        self.found = Check(name, found)
        self.met = self.met and (most is None or slope.kept(found.drop, most))
        if not self.met and not self._decided.allow_miss:
            raise Missed(
                f"{work.source.path}: {contract} is missed on {name}: it drops by "
                f"{found.drop:.3g}, from {found.before:.4g} to {found.after:.4g}, at {path.stat().st_size} bytes; "
                "nothing was written (--allow-miss writes it; a smaller --max-drop or more --data is more careful)"
            )

    def _opened(self) -> tuple[str, Evaluator]:
        """The data's name, and an evaluator of the original on it. Raises CannotRun if the original does not run."""
        decided = self._decided
        if decided.original is not None:
            return decided.original.parts.check.name, decided.original.check
        if decided.not_calibrated:
            raise CannotRun(decided.not_calibrated)
        source = decided.work.source
        try:
            session = quiet_session(str(source.path))
            data = synthetic(session, Hints(source.model), _CHECKED)
            return data.name, evaluator_of(session, data)
        except Exception as error:  # CannotRun, or any runtime error on the user's model
            raise CannotRun(first_line(error)) from error


def _stages(work: Workspace, plan: Plan, size: int, check: _Checking) -> tuple[Stage, ...]:
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
