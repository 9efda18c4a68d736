"""The sensitivity command: shows how sensitive a model is to each weight."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import console, print_json, progress, write
from onnxopt.cli.groups import command
from onnxopt.cli.options import Model, Preparing, RequiredData, Showing, numbers, option
from onnxopt.files import writing
from onnxopt.metrics import CHOICES
from onnxopt.report.sensitivity import print_scan, render
from onnxopt.studies import sensitivity as scanning

_SETTINGS = ",".join(f"{setting:g}" for setting in scanning.SETTINGS)


@dataclass(frozen=True)
class Scanning:
    """Options for the step and the measurements."""

    output: Annotated[Path | None, option("--output", "-o", help="Write an HTML page with a figure here.")] = None
    step: Annotated[str, typer.Option(help="The step to apply, as in plans, with $x for the setting.")] = scanning.STEP
    settings: Annotated[str, typer.Option("--at", help="Values for $x.")] = _SETTINGS
    metric: Annotated[
        str | None, option("--metric", help=f"Measure its drop instead of the output noise: {CHOICES}.")
    ] = None
    samples: Annotated[int, typer.Option(help="Number of samples to use.")] = scanning.SAMPLES


@command
def sensitivity(model: Model, data: RequiredData, preparing: Preparing, how: Scanning, showing: Showing) -> None:
    """Apply a step to one weight at a time, from strong to gentle, and measure the loss of the model."""
    at = numbers("--at", how.settings) or []
    with writing({"--output": how.output}):
        with progress(showing.verbose, showing.log_json) as advance:
            (inputs,) = preparing.open(model, data)
            found = scanning.scan(
                model, inputs or data, step=how.step, settings=at, metric=how.metric, samples=how.samples,
                progress=advance,
            )  # fmt: skip
        if how.output:
            write(how.output, render(found))
    if showing.as_json:
        print_json(found)
    else:
        print_scan(console(), found)
