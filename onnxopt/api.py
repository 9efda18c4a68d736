"""Plan, apply and optimize: from a model to a smaller model. `decide` shows the architecture from top to bottom."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from onnxopt import native, runtime
from onnxopt.build import tuned_values
from onnxopt.build.decisions import is_structural
from onnxopt.build.preparation import prepare
from onnxopt.build.stamp import Stamp
from onnxopt.build.workspace import Workspace
from onnxopt.build.write_checked import Decided, write_checked, write_copy
from onnxopt.data import Spec, custom_ops
from onnxopt.encoding import Encoding
from onnxopt.errors import Missed, OnnxoptError, Unsound
from onnxopt.files import Folder, writing
from onnxopt.graph import STAMP, Model, Source, is_compressed, mostly_integers, on_disk, read
from onnxopt.request import BuildOptions, Options, Request
from onnxopt.results.result import Result
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan
from onnxopt.strategies import Strategy, strategies_for
from onnxopt.strategies.base import Outcome
from onnxopt.strategies.baseline import Baseline, calibrate, compared
from onnxopt.strategies.pursue import Pursued, attempts, pursue, raced_together, report
from onnxopt.tuning import tuned

_ANOTHER = "another strategy saves more time"
_MISSED = "the finished file misses the contract"
_OUTPUT = "the output"
_LARGE = 2**27
"""Bytes of a source of which memory counts more than time."""


def optimize(
    model: Model,
    output: str | os.PathLike[str] | None = None,
    contract: Contract | None = None,
    data: Spec | None = None,
    **options: Unpack[Options],
) -> Result:
    """Compresses a model: the smallest file that the contract allows.

    Arguments:
        model: path of an ONNX file, an `onnx.ModelProto` or an `onnx_ir.Model`.
        output: path of the file to write, whole or not at all. Without one, the file lives as long as the result, whose
            `save` copies it.
        contract: bounds to meet; by default, a bound on the noise in the outputs. Its fields can be given as keywords
            instead, as `max_drop` in the example.
        data: inputs similar to those in use: arrays by the names of inputs, with or without `labels`, or a path or a
            function as `--data` takes it. By default, synthetic inputs.
        options: further fields of `Request`; see there.

    A model that would not compute the same when it is quantized is written lossless, and one that cannot be rewritten
    at all is copied, unless the size or the form of the file is asked for. A model for which no setting keeps the
    default bound is written lossless as well. `Result.left_out` then says why.

    Raises Missed if the contract cannot be met, OnnxoptError if it contradicts itself, the model cannot be read or
    loaded, or the result cannot be written or run.

    Examples:
        >>> result = optimize("digits.onnx", data="train.npz", max_drop=0.5)
        >>> result.status, result.bytes_before // result.bytes_after >= 10
        ('met', True)
        >>> result.save("small.onnx").name
        'small.onnx'
        >>> result.report("report.html")[:15]
        '<!DOCTYPE html>'
    """
    request = Request.of(contract, data, options)
    path, folder = on_disk(model)
    if output is None:
        folder = folder or Folder()
        output = folder.path / f"{path.stem}.small.onnx"
    with custom_ops(request.custom_ops), writing({_OUTPUT: Path(output)}):
        source = plain_source(path, request)
        if request.stamp:
            source.model.metadata_props.add(key=STAMP, value=request.stamp)  # outputs have their source's metadata
        return replace(_optimized(source, request, Path(output)), folder=folder)


def _optimized(source: Source, request: Request, output: Path) -> Result:
    """Carries out `optimize`."""
    if request.lossless:
        return _lossless(source, request, None, output)
    try:
        with prepare(source, request) as work:
            for decided in itertools.chain.from_iterable(map(tuned, decide(work))):
                try:
                    return _written(decided, output)
                except Missed as error:
                    missed = error
            if request.contract.max_drop != 0:
                raise missed
    except (Unsound, Missed) as error:
        if request.demanding or (isinstance(error, Missed) and request.contract.bounded):
            raise
        result = _lossless(source, request, None, output, {"quantization": error.reason})
        return replace(result, contract=str(request.contract), bounds=_bounds(request))
    request.progress("keeping every bit, because quantization makes the metric drop and no drop is allowed", 0.9)
    result = _lossless(source, request, decided, output)
    return replace(result, contract=str(request.contract), bounds=_bounds(request))


def plan(model: Model, contract: Contract | None = None, data: Spec | None = None, **options: Unpack[Options]) -> Plan:
    """The decisions for a model, without writing a file. Arguments and errors are as for `optimize`.

    Raises OnnxoptError also if weights shall be tuned, as a plan does not hold their values.
    """
    request = Request.of(contract, data, options)
    if request.tune is not None:
        raise OnnxoptError(
            "a plan does not hold the values of tuned weights; `onnxopt optimize --tune --plan-out` writes both"
        )
    path, _folder = on_disk(model)
    with custom_ops(request.custom_ops):
        source = plain_source(path, request)
        if request.lossless:
            return Plan(source.sha256)
        with prepare(source, request) as work:
            return next(decide(work)).plan


def stamp(model: Model, contract: Contract | None = None, data: Spec | None = None, **options: Unpack[Options]
          ) -> Stamp:  # fmt: skip
    """The digests of a request and its inputs, without carrying it out. Arguments and errors are as for `optimize`."""
    request = Request.of(contract, data, options)
    path, _folder = on_disk(model)
    with custom_ops(request.custom_ops):
        return Stamp.of(plain_source(path, request), request)


def apply(
    model: Model,
    plan: Plan,
    output: str | os.PathLike[str],
    data: Spec | None = None,
    values: str | os.PathLike[str] | Mapping[str, Encoding] | None = None,
    **options: Unpack[BuildOptions],
) -> Result:
    """Executes a plan from `plan`, which may have been edited by hand.

    Arguments:
        values: of tuned weights, for a plan that has such: `Result.values`, or the file that `--plan-out` wrote.

    Other arguments and errors are as for `optimize`. A plan without steps is lossless. A plan made on data needs the
    same data.
    """
    output, (path, folder) = Path(output), on_disk(model)
    request = Request.of(None, data, {**options, "lossless": not plan.steps, "effort": plan.effort})
    with custom_ops(request.custom_ops), writing({_OUTPUT: output}):
        source, tuned = plain_source(path, request), tuned_values.of(values, plan)
        return replace(_applied(source, plan, tuned, request, output), folder=folder)


def _applied(source: Source, plan: Plan, values: Mapping[str, Encoding], request: Request, output: Path) -> Result:
    """Carries out `apply`."""
    if plan.model_sha256 != source.sha256:
        raise OnnxoptError(
            f"{source.path}: the plan is for another model (sha256 {plan.model_sha256[:12]}..., "
            f"this one has {source.sha256[:12]}...); make a new one with `onnxopt plan`"
        )
    if not plan.steps:
        return _lossless(source, request, None, output)
    steps = {name: step for name, step in plan.steps.items() if is_structural(step)}
    with prepare(source, request) as work:
        if not plan.data:
            same, _, _ = compared(work, None)
            return write_checked(Decided(same.with_steps(steps).with_tuned(values), plan), output)
        base = calibrate(work, steps)
        if base.work.digest != plan.data:
            name = base.original.parts.calibration.name if base.search.original else ""
            raise OnnxoptError(f"{source.path}: the plan was made on other data than {name}; give the same with --data")
        return write_checked(Decided(base.work.with_tuned(values), plan, original=base.search.original), output)


def decide(work: Workspace) -> Iterator[Decided]:
    """Plans that meet the contract, best first. The next plan is computed only if the file of the last one missed it.

    Raises Missed if there is none.
    """
    request = work.request
    base = calibrate(work)
    base, exact = adopt(base, strategies_for(request, exact=True))
    base = replace(base, searched=base.search.run(base.work, base.contract))
    if base.kept.met:
        pursued = improve(base, strategies_for(request, exact=False))
        yield from _accepted(base, exact, pursued)
        exact += [report(one).given_up(_MISSED) if one.outcome else report(one) for one in pursued]
        if request.activations and not request.allow_miss:
            raise Missed(f"{work.name}: {base.contract} cannot be met with --activations: {exact[-1].reason}; nothing "
                         "was written (without it, other layers stay floats)")  # fmt: skip
    elif not request.allow_miss and request.tune is None:
        raise Missed(base.kept.nearest(work.name, base.contract))
    yield _decided(base, None, exact, request.allow_miss)
    if not base.kept.met and not request.allow_miss:  # nor with tuned weights
        raise Missed(base.kept.nearest(work.name, base.contract))


def adopt(base: Baseline, strategies: Sequence[Strategy]) -> tuple[Baseline, list[StrategyReport]]:
    """Adopts the exact strategies that make the model faster. Returns the new baseline and a report per strategy."""
    reports = []
    for strategy in strategies:
        if strategy.applies(base) and not base.refusal(strategy.inline_only):
            pursued = pursue(strategy, base, base.request.clock)
            reports.append(report(pursued))
            if pursued.outcome:
                base = replace(base, work=pursued.outcome.work.telling(base.work.progress))
    return base, reports


def improve(base: Baseline, strategies: Sequence[Strategy]) -> list[Pursued]:
    """Tries each strategy, and those that add to others upon the fastest. Returns the results, fastest first."""
    found: list[Pursued] = []
    for strategy in strategies:
        if strategy.applies(base):
            found.append(pursue(strategy, base, base.request.clock))
            if (outcome := found[-1].outcome) and strategy.settles(base, outcome):
                break
    found = raced_together(found, base.request.clock)
    fastest = min((one for one in found if one.outcome and not one.strategy.adds), key=_ratio, default=None)
    if fastest is not None:
        found += _upon(fastest, base, [one for one in strategies if one.adds])
    return sorted(found, key=_ratio)


def _ratio(pursued: Pursued) -> float:
    return pursued.ratio


def _upon(first: Pursued, base: Baseline, strategies: Sequence[Strategy]) -> Iterator[Pursued]:
    """What strategies that add to another's form make of it; only what is accepted."""
    assert first.outcome is not None
    form = replace(base, work=first.outcome.work.telling(base.work.progress), searched=first.outcome.searched)
    for strategy in strategies:
        if strategy.applies(form):
            pursued = replace(pursue(strategy, form, base.request.clock), upon=first)
            if pursued.outcome:
                yield pursued


def _accepted(base: Baseline, exact: list[StrategyReport], pursued: Sequence[Pursued]) -> Iterator[Decided]:
    """Each accepted form, fastest first. A form whose file misses the contract is followed by one with half the
    drop."""
    for index, one in enumerate(pursued):
        if one.outcome is None:
            continue
        before = [report(other).given_up(_MISSED) for other in pursued[:index]]
        after = [report(other).given_up(_ANOTHER) for other in pursued[index + 1 :]]
        first = [report(one.upon)] if one.upon else []
        for outcome in attempts(one):
            reports = _each([*exact, *first, report(replace(one, outcome=outcome)), *before, *after])
            yield _decided(base, outcome, reports)


def _each(reports: Sequence[StrategyReport]) -> list[StrategyReport]:
    """The first report of each strategy, in the order of strategies that are tried alone and upon others."""
    return list({one.name: one for one in reversed(reports)}.values())[::-1]


def _decided(
    base: Baseline, outcome: Outcome | None, reports: Sequence[StrategyReport], allow_miss: bool = False
) -> Decided:
    """A candidate for writing: an accepted form of the model, or the baseline."""
    work, searched = (base.work, base.kept) if outcome is None else (outcome.work, outcome.searched or base.kept)
    return Decided(
        work.telling(base.request.progress), searched.plan, base.contract, searched.trial, searched.met,
        searched.trials, base.search.original, base.not_calibrated, tuple(reports), allow_miss=allow_miss,
    )  # fmt: skip


def _written(decided: Decided, output: Path) -> Result:
    """Writes a plan's file. One that changes no weight keeps every bit of the outputs, so it does without clean-ups; so
    does one of integers that is no larger without loss."""
    if decided.plan.steps and not _is_small_lossless(decided):
        return write_checked(decided, output)
    left_out = {"quantization": "the file is no smaller with it"} if decided.plan.steps else {}
    return _lossless(decided.work.source, decided.work.request, decided, output, left_out)


def _is_small_lossless(decided: Decided) -> bool:
    """Whether a model of small integers, quantized once more, is no smaller than without loss."""
    source, request = decided.work.source, decided.work.request
    if decided.kept is None or request.demanding or request.goal or not mostly_integers(source.model):
        return False
    with prepare(source, replace(request, lossless=True)).sharing(decided.work) as work:
        size, _ = work.try_plan(Plan(source.sha256), None)
    return size <= decided.kept.size


def _lossless(
    source: Source, request: Request, decided: Decided | None, output: Path, left_out: Mapping[str, str] | None = None
) -> Result:
    """Writes a lossless file, which keeps every metric; a copy of the source if the file would not be the same model.

    Arguments:
        decided: what led to it, if anything did.
        left_out: what was given up before, and why.
    """
    request, left_out = replace(request, lossless=True), left_out or {}
    try:
        with prepare(source, request) as work:
            plan = Plan(source.sha256)
            lossless = Decided(work, plan)
            if decided is not None:
                lossless = replace(decided, work=work.sharing(decided.work), plan=plan, kept=None)
            return write_checked(replace(lossless, left_out=left_out), output)
    except Unsound as error:
        before = {what: reason for what, reason in left_out.items() if reason != error.reason}
        return write_copy(source, request, output, {**before, "compression": error.reason})


def _bounds(request: Request) -> Contract | None:
    """The user's contract, which outputs that are the same to the bit meet; None without one."""
    return request.contract if request.contract.bounded else None


def plain_source(path: Path, request: Request | None = None) -> Source:
    """The model of a file. Raises OnnxoptError if it cannot be read, or is compressed already.

    Arguments:
        request: what is done with it, which may allow to set its weights aside.
    """
    native.return_memory(native.LARGE_BLOCK)
    source = read(path, request is not None and _sets_aside(request))
    if request is not None and source.shelf is not None and (request.lossless or source.size > _LARGE):
        native.return_memory(native.SMALL_BLOCK)
    if is_compressed(source.model):
        raise OnnxoptError(f"{source.path}: is compressed already; `onnxopt decompress` gives the plain model back")
    runtime.check_custom_ops(source)
    return source


def _sets_aside(request: Request) -> bool:
    """Whether sessions may use weights in place: not where they are timed, trained, or in another process."""
    return request.goal is None and request.activations is None and request.tune is None and request.pool.here
