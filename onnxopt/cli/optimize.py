"""Commands for compression: optimize, plan, apply."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from onnxopt import api
from onnxopt.build import tuned_values
from onnxopt.build.schedule import Schedule
from onnxopt.cli.app import console, print_json, progress, write
from onnxopt.cli.check import show_current
from onnxopt.cli.dry_run import show_forecasts
from onnxopt.cli.groups import command
from onnxopt.cli.many import Placing, in_folder, outputs, run_all
from onnxopt.cli.options import (
    Bounds,
    Building,
    Decisions,
    Inputs,
    Libraries,
    LogJson,
    Measuring,
    Memory,
    Model,
    Output,
    Showing,
    Verbose,
    argument,
    option,
)
from onnxopt.data import Data
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.files import read_text
from onnxopt.files import writing as together
from onnxopt.measure.benchmark import benchmark
from onnxopt.pool.cluster import Cluster
from onnxopt.report import classical, html
from onnxopt.report.batch import moved
from onnxopt.report.json import plain
from onnxopt.report.table import print_result
from onnxopt.request import Options
from onnxopt.results.result import Result
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan
from onnxopt.studies.batch import Job

_SECONDS = 20.0
"""Longest time for the latencies of each model in a report: enough for the processes that a verdict needs."""

Models = Annotated[list[Path], argument(metavar="MODEL", help="ONNX models.")]
PlanFile = Annotated[Path, typer.Argument(metavar="PLAN", help="What `onnxopt plan` wrote.", show_default=False)]
PlanOutput = Annotated[Path | None, typer.Option("--output", "-o", help="The plan file; standard output if not given.")]


@dataclass(frozen=True)
class Checked:
    """Option for the data of the final check."""

    evaluation: Annotated[
        str | None, option("--eval", metavar="DATA", help="Data for the final check of the result.")
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Reporting(Building, Showing):
    """Options for building and showing a file."""

    report: Annotated[
        Path | None, option(help="Also write an HTML page here, with measured speed and memory.")
    ] = None  # fmt: skip


@dataclass(frozen=True)
class Planning(Memory, Libraries):
    """Options for making a plan."""

    verbose: Verbose = False
    log_json: LogJson = None


@dataclass(frozen=True)
class Writing(Reporting, Checked, Measuring):
    """Options for writing the file."""

    allow_miss: Annotated[
        bool, typer.Option("--allow-miss", help="Write the closest file if the contract cannot be met.")
    ] = False
    plan_out: Annotated[Path | None, option(help="Also write the plan here, and tuned values beside it.")] = None
    tune: Annotated[
        str | None,
        option(metavar="TIME", help="Train the weights on --data, without labels, for a time (10m) or a number of "
                                    "passes over it (30epochs), or until it stops paying (auto)."),
    ] = None  # fmt: skip
    augment: Annotated[
        str | None,
        option(metavar="HOW", help="With --tune: change images at random; some of flip, crop, noise, blend, or none. "
                                   "Without it, flip,crop,blend for square colour images."),
    ] = None  # fmt: skip
    tune_labels: Annotated[
        float | None, option(metavar="SHARE", help="With --tune: train towards labels, too; their share, 0 to 1.")
    ] = None  # fmt: skip


@command
def optimize(
    models: Models, placing: Placing, inputs: Inputs, bounds: Bounds, decisions: Decisions, writing: Writing
) -> None:
    """Compress a model, or several into a folder, to the smallest files that meet a contract."""
    if placing.check is not None and placing.dry_run:
        raise OnnxoptError("--check and --dry-run contradict each other; give one of them")
    if placing.check is not None:
        if placing.output is not None:
            raise OnnxoptError("--output and --check contradict each other; --check says which output, and writes none")
        made = partial(_options, inputs, bounds, decisions, writing)
        show_current(outputs(models, placing.check), made, writing.as_json)
    elif placing.dry_run:
        show_forecasts(models, partial(_options, inputs, bounds, decisions, writing), writing.as_json)
    elif in_folder(models, placing.file):
        if writing.plan_out or writing.report:
            raise OnnxoptError("--plan-out and --report name one file, and a folder may hold several; leave them out")
        words, memory = placing.options_given(), 0 if decisions.lossless else writing.ram
        run_all([Job(*pair, words, memory=memory) for pair in outputs(models, placing.file)], placing, writing)
    else:
        _optimize(models[0], placing, inputs, bounds, decisions, writing)


def _options(
    inputs: Inputs, bounds: Bounds, decisions: Decisions, writing: Writing, model: Path
) -> tuple[Contract, Data | None, Options]:
    """The arguments of `api.optimize` for a model."""
    contract, chosen = bounds.contract, decisions.options
    data, checked = inputs.opened(model, writing.evaluation)
    options: Options = {
        **chosen, "evaluation": checked, "allow_miss": writing.allow_miss, "decode": writing.favoured,
        "max_ram": writing.ram, "custom_ops": writing.custom_ops or (),
        "tune": writing.tune, "augment": writing.augment,
        "tune_labels": writing.tune_labels or 0.0,
    }  # fmt: skip
    return contract, data, options


def _optimize(
    model: Path, placing: Placing, inputs: Inputs, bounds: Bounds, decisions: Decisions, writing: Writing
) -> None:
    """Compresses one model into a file."""
    output = placing.file
    beside = _beside(writing.plan_out) if writing.plan_out and writing.tune else None
    files = {"--output": output, "--plan-out": writing.plan_out, "the tuned values of --plan-out": beside,
             "--report": writing.report}  # fmt: skip
    with together(files) as complete:
        races = decisions.goal is not None or decisions.activations is not None  # of which nobody knows how many
        with progress(writing.verbose, writing.log_json, even=not races) as advance:
            contract, data, options = _options(inputs, bounds, decisions, writing, model)
            options["stamp"] = str(api.stamp(model, contract, data, **options))
            options["progress"] = Schedule(advance)
            with placing.within as options["pool"]:
                result = api.optimize(model, output, contract, data, **options)
                if isinstance(pool := options["pool"], Cluster):
                    advance(moved(pool), 1.0)
            advance.written(result.bytes_after)
        if writing.plan_out:
            write(writing.plan_out, result.plan.to_json())
        if beside and result.values:
            write(beside, tuned_values.packed(result.values))
        recipe = options["recipe"]
        table = classical.of(recipe.table, result.events) if recipe and recipe.table and result.events else None
        result = _reported(result, table, writing, data, complete(output))
    _show(result, table, writing.as_json)
    if not result.met:
        raise typer.Exit(Missed.exit_code)


@command
def plan(
    model: Model, inputs: Inputs, bounds: Bounds, decisions: Decisions, planning: Planning, output: PlanOutput = None
) -> None:
    """Write the decisions of optimize to a plan, to read, edit and apply."""
    with together({"--output": output}):
        contract, chosen = bounds.contract, decisions.options
        with progress(planning.verbose, planning.log_json) as advance:
            (data,) = inputs.opened(model)
            options: Options = {**chosen, "max_ram": planning.ram, "progress": Schedule(advance)}
            found = api.plan(model, contract, data, **options)
        text = found.to_json()
        if output is not None:
            write(output, text)
    if output is None:
        print(text, end="")


@command
def apply(model: Model, plan_file: PlanFile, output: Output, inputs: Inputs, reporting: Reporting) -> None:
    """Compress a model according to a plan. A plan made on data needs the same data, and PLAN.values if tuned."""
    with together({"--output": output, "--report": reporting.report}) as complete:
        steps = _read(plan_file)
        with progress(reporting.verbose, reporting.log_json) as advance:
            (data,) = inputs.opened(model)
            result = api.apply(
                model, steps, output, data, _beside(plan_file), decode=reporting.favoured, max_ram=reporting.ram,
                progress=advance,
            )  # fmt: skip
            advance.written(result.bytes_after)
        result = _reported(result, None, reporting, data, complete(output))
    _show(result, None, reporting.as_json)


def _beside(plan_file: Path) -> Path:
    """Where the values of a plan's tuned weights lie."""
    return plan_file.with_suffix(".values")


def _read(plan_file: Path) -> Plan:
    text = read_text(plan_file)
    try:
        return Plan.from_json(text)
    except OnnxoptError as error:
        raise OnnxoptError(f"{plan_file}: {error}") from error


def _reported(
    result: Result, table: classical.PaperTable | None, how: Reporting, data: Data | None, written: Path
) -> Result:
    """The result with all that is known only here; writes the HTML page if one is wanted.

    Arguments:
        table: that of the recipe's paper.
        written: where the output waits until the page is complete, too.
    """
    if table:
        result = replace(result, table=plain(table))
    result = replace(result, command=shlex.join(["onnxopt", *sys.argv[1:]]))
    if how.report:
        result = _benchmarked(result, data, how.verbose, written)
        write(how.report, html.render(plain(result)))
    return result


def _show(result: Result, table: classical.PaperTable | None, as_json: bool) -> None:
    """Prints the result."""
    if as_json:
        print_json(result)
        return
    print_result(console(), result)
    if table:
        classical.print_table(console(), table)
    if result.stages:
        classical.print_stages(console(), result.stages)


def _benchmarked(result: Result, data: Data | None, verbose: bool, written: Path) -> Result:
    """The result with a benchmark of source and output, or with the reason why there is none."""
    if result.unchanged:
        return result
    try:
        with progress(verbose) as advance:
            found = benchmark((result.source, written), data, seconds=_SECONDS, progress=advance)
    except OnnxoptError as error:
        return replace(result, not_benchmarked=str(error).replace(str(written), str(result.output)))
    return replace(result, benchmark=_renamed(plain(found), str(written), str(result.output)))


def _renamed(value: Any, before: str, after: str) -> Any:
    """A value of JSON with one of its texts replaced."""
    if isinstance(value, dict):
        return {key: _renamed(item, before, after) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, before, after) for item in value]
    return after if value == before else value
