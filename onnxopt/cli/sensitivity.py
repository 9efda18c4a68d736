"""The command that says which weights a model can spare: sensitivity."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import app, console, progress, write
from onnxopt.cli.options import (
    Images,
    Json,
    Layout,
    Mean,
    Preprocess,
    Size,
    Std,
    Verbose,
    argument,
    numbers,
    option,
)
from onnxopt.metrics import CHOICES
from onnxopt.report.json import to_json
from onnxopt.report.sensitivity import print_scan, render
from onnxopt.studies import sensitivity as scanning

_SETTINGS = ",".join(f"{setting:g}" for setting in scanning.SETTINGS)

Model = Annotated[Path, argument(help="An ONNX model.")]
DataOption = Annotated[str, option("--data", metavar="DATA", help="Inputs, and labels where there are any: .npz, .npy, "
                                   "a folder of images, or package.module:function.")]  # fmt: skip
Step = Annotated[str, typer.Option(help="What is done to a weight, as in plans, $x standing for the setting.")]
Settings = Annotated[str, typer.Option("--at", help="The settings.")]
MetricOption = Annotated[str | None, option("--metric", help="Measure its drop, not the noise in the outputs: "
                                            f"{CHOICES}.")]  # fmt: skip
Samples = Annotated[int, typer.Option(help="As many of the data.")]
Page = Annotated[Path | None, option("--output", "-o", help="Write an HTML page with a figure here.")]


@app.command()
def sensitivity(
    model: Model,
    data: DataOption,
    output: Page = None,
    step: Step = scanning.STEP,
    settings: Settings = _SETTINGS,
    metric: MetricOption = None,
    samples: Samples = scanning.SAMPLES,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Do one step to each weight alone, from strong to gentle, and measure what the model loses."""
    at = numbers("--at", settings) or []
    with progress(verbose) as advance:
        (inputs,) = Images(preprocess, mean, std, layout, size).open(model, data)
        found = scanning.scan(model, inputs or data, step, at, metric, samples, advance)
    if output:
        write(output, render(found))
    if as_json:
        print(to_json(found))
    else:
        print_scan(console(), found)
