"""The command that puts published systems beside the engine: compare."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import app, console, progress, write
from onnxopt.cli.optimize import (
    Error,
    Evaluation,
    MaxDrop,
    MaxRam,
    MetricOption,
    Model,
    TargetRatio,
    TargetSize,
    contract_of,
)
from onnxopt.cli.options import DataOption, Images, Json, Layout, Mean, Preprocess, Size, Std, Verbose, count, option
from onnxopt.report.compare import print_systems, render
from onnxopt.report.json import to_json
from onnxopt.spec import recipes
from onnxopt.spec.recipes import Recipe
from onnxopt.studies.compare import compare as measure

_ALL = "all"

Recipes = Annotated[str, option(help=f"{_ALL}, or some of {', '.join(recipes.names())} and .toml files, with commas.")]
ReportOut = Annotated[Path | None, option("--report", help="Write an HTML page with the curves here too.")]


@app.command()
def compare(
    model: Model,
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
    recipes: Recipes = _ALL,
    report: ReportOut = None,
    max_ram: MaxRam = "512MiB",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Put published systems beside the engine: the same model, contract and data."""
    contract = contract_of(max_drop, target_size, target_ratio, error, metric)
    chosen = _opened(recipes)
    with progress(verbose) as advance:
        inputs, checked = Images(preprocess, mean, std, layout, size).open(model, data, evaluation)
        found = measure(model, chosen, contract, inputs, checked, count("--max-ram", max_ram), advance)
    found = replace(found, command=shlex.join(["onnxopt", *sys.argv[1:]]))
    if as_json:
        print(to_json(found))
    else:
        print_systems(console(), found)
    if report:
        write(report, render(found))


def _opened(names: str) -> list[Recipe]:
    """Raises OnnxoptError where one of them is none."""
    return [Recipe.open(name.strip()) for name in (recipes.names() if names == _ALL else names.split(","))]
