"""Plan, apply, optimize: a model in, a small model out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from onnxopt import native
from onnxopt.build import execute_plan
from onnxopt.build.workspace import Workspace
from onnxopt.data import CannotRun, Spec, input_scale, quiet_session, synthetic
from onnxopt.errors import Missed, OnnxoptError, first_line
from onnxopt.graph import Source, is_compressed, is_equalized, is_for_value, read, rounding
from onnxopt.measure import memory
from onnxopt.results.result import Check, Result, Stage
from onnxopt.search import slope as search
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan
from onnxopt.spec.progress import Progress
from onnxopt.spec.recipes import Recipe
from onnxopt.strategies.prelu import hasten
from onnxopt.strategies.ways import ANOTHER, said, ways_to, wish_of

MAX_RAM = 2**29
"""Bytes that statistics may take at a time, where the user does not say."""
_CHECKED = 4
"""Made-up inputs on which a file is checked that no search measured."""


def plan(
    model: str | os.PathLike[str],
    contract: Contract | None = None,
    data: Spec | None = None,
    lossless: bool = False,
    overrides: Overrides | None = None,
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    goal: str | None = None,
    activations: int | None = None,
    target: str | None = None,
) -> Plan:
    """The decisions for a model, without writing a file. Arguments and errors as for `optimize`."""
    contract, wish = contract or Contract(), wish_of(goal, activations, target, lossless, recipe is not None)
    contract.check(lossless, recipe is not None)
    with _engine(_plain(model), lossless, "balanced", max_ram, progress) as engine:
        if lossless:
            return Plan(engine.source.sha256)
        tuner = ContractSearch(engine, contract, overrides or Overrides(), recipe)
        tuner.calibrate(data, None)
        best, met = tuner.run()
        if not met:
            raise Missed(tuner.nearest(best))
        with ways_to(tuner, best, wish, engine.progress) as ways:
            for one in (attempt for way in ways for attempt in way.attempts()):
                return one.tuner.plan(one.best)
        return tuner.plan(best)


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    contract: Contract | None = None,
    data: Spec | None = None,
    evaluation: Spec | None = None,
    lossless: bool = False,
    overrides: Overrides | None = None,
    allow_miss: bool = False,
    prefer: str = "balanced",
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
    recipe: Recipe | None = None,
    goal: str | None = None,
    activations: int | None = None,
    target: str | None = None,
) -> Result:
    """Compresses the model at `model` into the file `output`: the smallest file that the contract allows.

    Arguments:
        model: path of an ONNX file.
        output: path of the file to write; written whole or not at all.
        contract: what to meet; without one, a bound on the noise in the outputs.
        data: what the model is used on, three quarters of it to calibrate on and the rest to search with; without it,
            made-up inputs.
        evaluation: data that the result is measured on, once; without it, a part of `data` that nothing else sees.
        lossless: keep every weight bit for bit instead; there is no contract then.
        overrides: decisions for single weights.
        allow_miss: write what comes nearest where the contract cannot be met.
        prefer: "smallest", "balanced" or "fastest" to decode.
        max_ram: bytes that statistics may take at a time.
        progress: told what is being done.
        recipe: a published system that decides instead of the engine; its knobs are turned until the contract is met,
            and without one stand in the middle.
        goal: "size", "speed" or "balanced": layers become chains of thinner ones where that saves bytes, milliseconds
            on this machine, or both, inside the same contract, and for speed or both layers run in integers where that
            saves milliseconds; without it none do.
        activations: 8 or 16: all layers that can run in integers do, and values between them have so many bits.
        target: "cpu-vnni", "cpu-arm" or "generic": the device whose integer kernels the types are for; without it this
            machine.

    Raises Missed where the contract cannot be met, OnnxoptError where it contradicts itself, the model cannot be read
    or the result cannot be written or run.
    """
    contract, wish = contract or Contract(), wish_of(goal, activations, target, lossless, recipe is not None)
    contract.check(lossless, recipe is not None)
    started, source = time.monotonic(), _plain(model)
    detailed = recipe is not None and bool(recipe.table)
    with _engine(source, lossless, prefer, max_ram, progress, detailed) as engine:
        if lossless:
            return _finish(engine, Plan(source.sha256), Path(output), started)
        tuner = ContractSearch(engine, contract, overrides or Overrides(), recipe)
        tuner.calibrate(data, evaluation)
        report: dict[str, Any] = {}
        if wish is not None and wish.goal and wish.goal.timed:
            report["rectifiers"] = hasten(tuner, engine.progress)
        best, met = tuner.run()
        if not met and not allow_miss:
            raise Missed(tuner.nearest(best))
        if wish is not None and met:
            with ways_to(tuner, best, wish, engine.progress) as ways:
                for way in ways:
                    for one in way.attempts():
                        with suppress(Missed):
                            plan, checked = one.tuner.plan(one.best), one.tuner.contract
                            done = _finish(
                                one.tuner.engine, plan, Path(output), started, one.tuner, checked, one.best
                            )  # fmt: skip
                            return replace(done, **report, **said(ways[ways.index(way) + 1 :], ANOTHER), **said([one]))
                    report |= said([way], "the finished file misses the contract")
            if wish.activations and not allow_miss:
                reason = next(iter(report.values())).reason
                raise Missed(f"{source.path}: {contract} cannot be met with --activations: {reason}; nothing was "
                             "written (without it, other layers stay floats)")  # fmt: skip
        try:
            plan, checked = tuner.plan(best), tuner.contract
            result = _finish(engine, plan, Path(output), started, tuner, checked, best, met, allow_miss, detailed)
            return replace(result, **report)
        except Missed:
            if contract.max_drop != 0:
                raise
    with _engine(source, True, prefer, max_ram, progress) as engine:  # which keeps any metric
        engine.progress("keeping every bit, for quantized the metric drops, and no drop is allowed", 0.9)
        return _finish(engine, Plan(source.sha256), Path(output), started, tuner, tuner.contract)


def apply(
    model: str | os.PathLike[str],
    plan: Plan,
    output: str | os.PathLike[str],
    data: Spec | None = None,
    prefer: str = "balanced",
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
) -> Result:
    """Carries out a plan that `plan` made, perhaps edited by hand. Arguments and errors as for `optimize`.

    A plan without steps is lossless. One that was made on data needs the same data.
    """
    started, source = time.monotonic(), _plain(model)
    if plan.model_sha256 != source.sha256:
        raise OnnxoptError(
            f"{source.path}: the plan is for another model (sha256 {plan.model_sha256[:12]}..., "
            f"this one has {source.sha256[:12]}...); make a new one with `onnxopt plan`"
        )
    with _engine(source, not plan.steps, prefer, max_ram, progress) as engine:
        values = {value: step for value, step in plan.steps.items() if is_for_value(step)}
        equalized = {value for value, step in values.items() if is_equalized(step)}
        if equalized or any(rounding(step) for step in values.values()):
            engine.modernise()
        chains = execute_plan.chains_of(plan)
        if not plan.data:
            engine.factorise(chains)
            return _finish(engine, plan, Path(output), started)
        tuner = ContractSearch(engine, Contract(), Overrides())
        tuner.calibrate(data, None, chains, equalized)
        if engine.data != plan.data:
            raise OnnxoptError(
                f"{source.path}: the plan was made on other data than {tuner.calibrated}; give the same with --data"
            )
        return _finish(engine, plan, Path(output), started, tuner)


@contextmanager
def _engine(
    source: Source, lossless: bool, prefer: str, max_ram: int, progress: Progress | None, detailed: bool = False
) -> Iterator[Workspace]:
    """What it measured is forgotten once all went well, and kept for another try where it did not."""
    engine = Workspace(source, lossless, prefer, max_ram, progress or (lambda what, share: None), detailed)
    try:
        yield engine
    except BaseException:
        engine.close(keep=True)
        raise
    engine.close(keep=False)


def _plain(model: str | os.PathLike[str]) -> Source:
    native.return_memory()
    source = read(model)
    if is_compressed(source.model):
        raise OnnxoptError(f"{source.path}: is compressed already; `onnxopt decompress` gives the plain model back")
    return source


def _finish(
    engine: Workspace,
    plan: Plan,
    output: Path,
    started: float,
    tuner: ContractSearch | None = None,
    contract: Contract | None = None,
    kept: Trial | None = None,
    met: bool = True,
    allow_miss: bool = False,
    staged: bool = False,
) -> Result:
    """Writes the file of a plan, and checks it before it takes its place.

    Arguments:
        started: when, for the result.
        tuner: has the data to check on; without one a few made-up inputs have to do.
        contract: what the finished file has to meet.
        kept: the trial that the plan is from.
        met: whether that trial met the contract.
        allow_miss: write the file even if the check does not.
        staged: measure every stage of the plan, too.

    Raises Missed where the check misses the contract.
    """
    tries = len(tuner.trials) if tuner and kept else 0
    writing = f"writing, of {tries} tries, what comes nearest to: {contract}" if tries > 1 else "writing"
    engine.progress(writing, 0.9)
    built = engine.build(plan, lambda share: engine.progress(writing, 0.9 + 0.05 * share))
    checked: Check | None = None
    reference: Evaluator | None = None
    not_checked, most = "", contract.max_drop if contract else None

    def check(path: Path) -> None:
        nonlocal checked, not_checked, met, reference
        engine.progress("checking the file, loaded as a user does", 0.95)
        session = engine.load(path)
        try:
            name, reference = _reference(engine, tuner)
        except CannotRun as error:
            not_checked = str(error)
            return
        found = reference.compare(session)
        checked = Check(name, found)
        met = met and (most is None or search.kept(found.drop, most))
        if not met and not allow_miss:
            raise Missed(
                f"{engine.source.path}: {contract} is missed on {name}: it drops by "
                f"{found.drop:.3g}, from {found.before:.4g} to {found.after:.4g}, at {path.stat().st_size} bytes; "
                "nothing was written (--allow-miss writes it; a smaller --max-drop or more --data is more careful)"
            )

    size, unchanged = engine.write(built, output, check)
    if unchanged:
        engine.progress("keeping a copy of the source, for compressed it is no smaller", 1.0)
    events = () if unchanged else tuple(engine.events(built, size))
    last = Stage("", size, checked.found if checked else None)
    stages = _stages(engine, built.plan, last, reference) if staged else ()
    return Result(
        source=engine.source.path,
        output=output,
        bytes_before=engine.source.size,
        bytes_fp16=engine.source.size - 2 * engine.source.float_elements,
        bytes_after=size,
        events=events,
        chains=() if unchanged else tuple(engine.chains()),
        cleaned=engine.cleaned,
        contract=str(contract or ""),
        bounds=contract if contract and contract.bounded else None,
        recipe=tuner.recipe if tuner else "",
        met=met,
        calibrated=tuner.calibrated if tuner else "",
        not_calibrated=tuner.not_calibrated if tuner else "",
        trials=tuple(tuner.trials) if tuner else (),
        kept=kept,
        check=checked,
        not_checked=not_checked,
        stages=stages,
        unchanged=unchanged,
        seconds=time.monotonic() - started,
        peak_memory=memory.peak(),
        plan=built.plan,
        versions={"onnxopt": version("onnxopt"), "onnxruntime": onnxruntime.__version__, "numpy": np.__version__},
    )


def _stages(engine: Workspace, plan: Plan, last: Stage, reference: Evaluator | None) -> tuple[Stage, ...]:
    """Of a plan whose `last` is known; none where it has one stage only."""
    names = max(([one.name for one in step] for step in plan.steps.values()), key=len, default=[])
    stages = []
    for count, stage in enumerate(plan.stages(), 1):
        size, found = last.size, last.found
        if count < len(names):
            engine.progress(f"stage {count} of {len(names)}", 0.97)
            size, found = engine.try_plan(stage, reference, lambda share: None)
        stages.append(Stage(" > ".join(names[:count]), size, found))
    return tuple(stages) if len(stages) > 1 else ()


def _reference(engine: Workspace, tuner: ContractSearch | None) -> tuple[str, Evaluator]:
    """The original on what the file is checked on, and the name of that. Raises CannotRun where the original does."""
    if tuner:
        if tuner.check is None:
            raise CannotRun(tuner.not_calibrated)
        return tuner.check.name, Evaluator(tuner.session, tuner.check, tuner.metric)
    try:
        session = quiet_session(str(engine.source.path))
        data = synthetic(session, input_scale(engine.source.model), _CHECKED)
        return data.name, Evaluator(session, data)
    except Exception as error:  # our CannotRun, or whatever the runtime says about the user's own model
        raise CannotRun(first_line(error)) from error
