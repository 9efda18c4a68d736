"""Commands for compression: optimize, plan, apply."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from onnxopt import api
from onnxopt.cli.app import console, progress, write
from onnxopt.cli.groups import command
from onnxopt.cli.options import (
    Bounds,
    Building,
    Decisions,
    Inputs,
    Libraries,
    Memory,
    Model,
    Output,
    Showing,
    Verbose,
    option,
)
from onnxopt.data import Data
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.measure.benchmark import benchmark
from onnxopt.report import classical, html, table
from onnxopt.report.json import to_json
from onnxopt.request import Options
from onnxopt.results.result import Result
from onnxopt.spec.plan import Plan

_SECONDS = 20.0
"""Longest time for the latencies of each model in a report: enough for the processes that a verdict needs."""

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


@dataclass(frozen=True)
class Writing(Reporting, Checked):
    """Options for writing the file."""

    allow_miss: Annotated[
        bool, typer.Option("--allow-miss", help="Write the closest file if the contract cannot be met.")
    ] = False
    plan_out: Annotated[Path | None, option(help="Also write the plan here.")] = None


@command
def optimize(
    model: Model, output: Output, inputs: Inputs, bounds: Bounds, decisions: Decisions, writing: Writing
) -> None:
    """Compress a model to the smallest file that meets a contract."""
    contract, chosen = bounds.contract, decisions.options
    with progress(writing.verbose) as advance:
        data, checked = inputs.opened(model, writing.evaluation)
        options: Options = {
            **chosen, "evaluation": checked, "allow_miss": writing.allow_miss, "decode": writing.favoured,
            "max_ram": writing.ram, "progress": advance,
        }  # fmt: skip
        result = api.optimize(model, output, contract, data, **options)
    if writing.plan_out:
        write(writing.plan_out, result.plan.to_json())
    recipe = chosen["recipe"]
    _show(result, writing, data, recipe.table if recipe else "")
    if not result.met:
        raise typer.Exit(Missed.exit_code)


@command
def plan(
    model: Model, inputs: Inputs, bounds: Bounds, decisions: Decisions, planning: Planning, output: PlanOutput = None
) -> None:
    """Write the decisions of optimize to a plan, to read, edit and apply."""
    contract, chosen = bounds.contract, decisions.options
    with progress(planning.verbose) as advance:
        (data,) = inputs.opened(model)
        options: Options = {**chosen, "max_ram": planning.ram, "progress": advance}
        found = api.plan(model, contract, data, **options)
    text = found.to_json()
    if output is None:
        print(text, end="")
    else:
        write(output, text)


@command
def apply(model: Model, plan_file: PlanFile, output: Output, inputs: Inputs, reporting: Reporting) -> None:
    """Compress a model according to a plan. A plan made on data needs the same data."""
    try:
        text = plan_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OnnxoptError(f"{plan_file}: cannot be read: {error}") from error
    with progress(reporting.verbose) as advance:
        (data,) = inputs.opened(model)
        result = api.apply(
            model, Plan.from_json(text), output, data, decode=reporting.favoured, max_ram=reporting.ram,
            progress=advance,
        )  # fmt: skip
    _show(result, reporting, data)


def _show(result: Result, how: Reporting, data: Data | None, table_name: str = "") -> None:
    """Shows the result, with the named table if there are events."""
    found = classical.of(table_name, result.events) if table_name and result.events else None
    if found:
        result = replace(result, table=json.loads(to_json(found)))
    result = replace(result, command=shlex.join(["onnxopt", *sys.argv[1:]]))
    if how.report:
        result = _benchmarked(result, data, how.verbose)
    if how.as_json:
        print(to_json(result))
    else:
        table.print_result(console(), result)
        if found:
            classical.print_table(console(), found)
        if result.stages:
            classical.print_stages(console(), result.stages)
    if how.report:
        write(how.report, html.render(json.loads(to_json(result))))


def _benchmarked(result: Result, data: Data | None, verbose: bool) -> Result:
    """The result with a benchmark of source and output, or with the reason why there is none."""
    if result.unchanged:
        return result
    try:
        with progress(verbose) as advance:
            found = benchmark((result.source, result.output), data, seconds=_SECONDS, progress=advance)
    except OnnxoptError as error:
        return replace(result, not_benchmarked=str(error))
    return replace(result, benchmark=json.loads(to_json(found)))
