"""Commands that compress: optimize, plan, apply."""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from onnxopt import api, metrics
from onnxopt.cli.app import app, console, progress, write
from onnxopt.cli.options import (
    DataOption,
    Images,
    Json,
    Layout,
    Mean,
    Output,
    Preprocess,
    Size,
    Std,
    Verbose,
    argument,
    count,
    option,
)
from onnxopt.data import Data
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.measure.benchmark import benchmark
from onnxopt.report import classical, html, table
from onnxopt.report.json import to_json
from onnxopt.results.result import Result
from onnxopt.search.allocation import Goal
from onnxopt.spec import recipes
from onnxopt.spec.contract import DEFAULT_ERROR, SYNTHETIC_ERROR, Contract
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan
from onnxopt.spec.recipes import Recipe
from onnxopt.spec.target import TARGETS

_SECONDS = 20.0
"""That a report's latencies take for each model at most: time for the processes that a verdict takes."""


class Prefer(StrEnum):
    """What the choice of codecs favours."""

    SMALLEST = "smallest"
    BALANCED = "balanced"
    FASTEST = "fastest"


Model = Annotated[Path, argument(help="An ONNX model.")]
Evaluation = Annotated[str | None, option("--eval", metavar="DATA", help="What the result is checked on, once.")]
MetricOption = Annotated[str, typer.Option("--metric", help=f"{metrics.CHOICES}.")]
MaxDrop = Annotated[float | None, option(help="What the metric may lose; points for top1 and top5.")]
TargetSize = Annotated[str | None, option(help="Bytes of the file, as in 2MB.")]
TargetRatio = Annotated[float | None, option(help="How many times smaller the file shall be.")]
Error = Annotated[float | None, option(help="Noise over signal allowed in the outputs. Where nothing is asked for, "
                                       f"{DEFAULT_ERROR}, or {SYNTHETIC_ERROR} on made-up inputs.")]  # fmt: skip
RecipeOption = Annotated[str | None, option(help="A published system instead of the engine: "
                                            f"{', '.join(recipes.names())}, or a .toml file.")]  # fmt: skip
GoalOption = Annotated[Goal | None, option("--for", help="Make chains of layers, or run layers in integers, where "
                                           "that saves bytes, milliseconds on this machine, or both.")]  # fmt: skip
Activations = Annotated[int | None, option(help="8 or 16: all layers that can run in integers of so many bits.")]
TargetOption = Annotated[str | None, option("--target", help="Whose integers: "
                                            f"{', '.join(TARGETS)}; else this machine's.")]  # fmt: skip
OverridesFile = Annotated[Path | None, option("--overrides", help="TOML: what is decided for single weights.")]
AllowMiss = Annotated[bool, typer.Option("--allow-miss", help="Write what comes nearest where the contract is missed.")]
MaxRam = Annotated[str, typer.Option(help="Memory for statistics.")]
ReportOut = Annotated[
    Path | None, option("--report", help="Write an HTML page here too; measures speed and memory for it.")
]
PlanOut = Annotated[Path | None, option(help="Write the plan here too.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="Keep every weight bit for bit.")]
Favour = Annotated[Prefer, typer.Option(help="What the choice of codecs favours when decoding.")]


@app.command()
def optimize(
    model: Model,
    output: Output,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    evaluation: Evaluation = None,
    metric: MetricOption = "top1",
    max_drop: MaxDrop = None,
    target_size: TargetSize = None,
    target_ratio: TargetRatio = None,
    error: Error = None,
    lossless: Lossless = False,
    recipe: RecipeOption = None,
    goal: GoalOption = None,
    activations: Activations = None,
    target: TargetOption = None,
    overrides: OverridesFile = None,
    allow_miss: AllowMiss = False,
    plan_out: PlanOut = None,
    report: ReportOut = None,
    prefer: Favour = Prefer.BALANCED,
    max_ram: MaxRam = "512MiB",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compress a model: the smallest file inside a contract."""
    contract = contract_of(max_drop, target_size, target_ratio, error, metric)
    system = _recipe(recipe)
    with progress(verbose) as advance:
        inputs, checked = Images(preprocess, mean, std, layout, size).open(model, data, evaluation)
        result = api.optimize(
            model, output, contract, inputs, checked, lossless, _overrides(overrides), allow_miss, prefer.value,
            count("--max-ram", max_ram), advance, system, goal, activations, target,
        )  # fmt: skip
    if plan_out:
        write(plan_out, result.plan.to_json())
    _show(result, as_json, report, inputs, verbose, system.table if system else "")
    if not result.met:
        raise typer.Exit(Missed.exit_code)


@app.command()
def plan(
    model: Model,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The plan file; standard output if not given.")]
    = None,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    metric: MetricOption = "top1",
    max_drop: MaxDrop = None,
    target_size: TargetSize = None,
    target_ratio: TargetRatio = None,
    error: Error = None,
    lossless: Lossless = False,
    recipe: RecipeOption = None,
    goal: GoalOption = None,
    activations: Activations = None,
    target: TargetOption = None,
    overrides: OverridesFile = None,
    max_ram: MaxRam = "512MiB",
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Write down what optimize would do, to be read, edited and applied."""
    contract = contract_of(max_drop, target_size, target_ratio, error, metric)
    with progress(verbose) as advance:
        (inputs,) = Images(preprocess, mean, std, layout, size).open(model, data)
        found = api.plan(
            model, contract, inputs, lossless, _overrides(overrides), count("--max-ram", max_ram), advance,
            _recipe(recipe), goal, activations, target,
        )  # fmt: skip
    text = found.to_json()
    if output is None:
        print(text, end="")
    else:
        write(output, text)


@app.command()
def apply(
    model: Model,
    plan_file: Annotated[Path, typer.Argument(metavar="PLAN", help="What `onnxopt plan` wrote.", show_default=False)],
    output: Output,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    prefer: Favour = Prefer.BALANCED,
    max_ram: MaxRam = "512MiB",
    report: ReportOut = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compress a model as a plan says; one that was made on data needs the same data."""
    try:
        text = plan_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OnnxoptError(f"{plan_file}: cannot be read: {error}") from error
    with progress(verbose) as advance:
        (inputs,) = Images(preprocess, mean, std, layout, size).open(model, data)
        result = api.apply(
            model, Plan.from_json(text), output, inputs, prefer.value, count("--max-ram", max_ram), advance
        )
    _show(result, as_json, report, inputs, verbose)


def contract_of(
    max_drop: float | None, target_size: str | None, target_ratio: float | None, error: float | None, metric: str
) -> Contract:
    """What the options of these names ask for. Raises OnnxoptError where one of them is no number of bytes."""
    most = None if target_size is None else count("--target-size", target_size)
    return Contract(max_drop, most, target_ratio, error, metric)


def _overrides(path: Path | None) -> Overrides:
    return Overrides() if path is None else Overrides.read(path)


def _recipe(name: str | None) -> Recipe | None:
    recipe = None if name is None else Recipe.open(name)
    if recipe and recipe.table:
        classical.check(recipe.table)
    return recipe


def _show(
    result: Result, as_json: bool, report: Path | None, data: Data | None, verbose: bool, table_name: str = ""
) -> None:
    """What was done; with the table of this name where events tell."""
    found = classical.of(table_name, result.events) if table_name and result.events else None
    if found:
        result = replace(result, table=json.loads(to_json(found)))
    result = replace(result, command=shlex.join(["onnxopt", *sys.argv[1:]]))
    if report:
        result = _benchmarked(result, data, verbose)
    if as_json:
        print(to_json(result))
    else:
        table.print_result(console(), result)
        if found:
            classical.print_table(console(), found)
        if result.stages:
            classical.print_stages(console(), result.stages)
    if report:
        write(report, html.render(json.loads(to_json(result))))


def _benchmarked(result: Result, data: Data | None, verbose: bool) -> Result:
    """The result with source and output compared, or with the reason why they cannot be."""
    if result.unchanged:
        return result
    try:
        with progress(verbose) as advance:
            found = benchmark((result.source, result.output), data, seconds=_SECONDS, progress=advance)
    except OnnxoptError as error:
        return replace(result, not_benchmarked=str(error))
    return replace(result, benchmark=json.loads(to_json(found)))
