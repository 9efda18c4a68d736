"""Writes the file of a plan, and checks it, loaded as a user loads it, before it takes its place."""

from __future__ import annotations

import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnxruntime

from onnxopt.build.describe_events import chains, events
from onnxopt.build.workspace import Workspace
from onnxopt.data import CannotRun, input_scale, quiet_session, synthetic
from onnxopt.errors import Missed, first_line
from onnxopt.measure import memory
from onnxopt.results.result import Check, Result, Stage
from onnxopt.results.strategy import StrategyReport
from onnxopt.search import slope
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.original import Original
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan

_CHECKED = 4
"""Synthetic inputs on which a file is checked that no search measured."""


@dataclass(frozen=True)
class Decided:
    """A plan that may be written, and all that a result says of how it came about."""

    work: Workspace
    plan: Plan
    contract: Contract | None = None
    """What the user asked for, and the finished file has to meet."""
    kept: Trial | None = None
    """The trial that the plan is from; None where it is a user's, or lossless."""
    met: bool = True
    """Whether that trial met the contract."""
    trials: tuple[Trial, ...] = ()
    """The search, in order."""
    original: Original | None = None
    """What to check on; without it a few synthetic inputs have to do."""
    not_calibrated: str = ""
    """Why there was no calibration."""
    strategies: tuple[StrategyReport, ...] = ()
    allow_miss: bool = False
    """Whether the file is written even where the check misses the contract."""

    @property
    def calibrated(self) -> str:
        """Name of the data that the weights were calibrated on; empty where on none."""
        return self.original.parts.calibration.name if self.original else ""


def write_checked(decided: Decided, output: Path) -> Result:
    """Writes the file; it is whole or not there.

    Raises Missed where the check misses the contract, OnnxoptError where it cannot be written or run.
    """
    work, contract = decided.work, decided.contract
    tries = len(decided.trials) if decided.kept else 0
    writing = f"writing, of {tries} tries, what comes nearest to: {contract}" if tries > 1 else "writing"
    work.progress(writing, 0.9)
    built = work.build(decided.plan, lambda share: work.progress(writing, 0.9 + 0.05 * share))
    check = _Checking(decided)
    size, unchanged = work.write(built, output, check)
    if unchanged:
        work.progress("keeping a copy of the source, for compressed it is no smaller", 1.0)
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


class _Checking:
    """Compares a file with the original, once."""

    def __init__(self, decided: Decided) -> None:
        self._decided, self.met = decided, decided.met
        self.found: Check | None = None
        self.reason = ""
        """Why there was no check."""
        self.evaluator: Evaluator | None = None

    def __call__(self, path: Path) -> None:
        """Raises Missed where the file misses the contract."""
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
        """The data's name, and the original on it. Raises CannotRun where that does."""
        decided = self._decided
        if decided.original is not None:
            return decided.original.parts.check.name, decided.original.check
        if decided.not_calibrated:
            raise CannotRun(decided.not_calibrated)
        source = decided.work.source
        try:
            session = quiet_session(str(source.path))
            data = synthetic(session, input_scale(source.model), _CHECKED)
            return data.name, Evaluator(session, data)
        except Exception as error:  # our CannotRun, or whatever the runtime says about the user's own model
            raise CannotRun(first_line(error)) from error


def _stages(work: Workspace, plan: Plan, size: int, check: _Checking) -> tuple[Stage, ...]:
    """Of a plan whose file has so many bytes; none where it has one stage only."""
    names = max(([one.name for one in step] for step in plan.steps.values()), key=len, default=[])
    stages = []
    for count, stage in enumerate(plan.stages(), 1):
        bytes_, found = size, check.found.found if check.found else None
        if count < len(names):
            work.progress(f"stage {count} of {len(names)}", 0.97)
            bytes_, found = work.try_plan(stage, check.evaluator)
        stages.append(Stage(" > ".join(names[:count]), bytes_, found))
    return tuple(stages) if len(stages) > 1 else ()
