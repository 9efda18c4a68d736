"""The command that says which weights a model can spare: sensitivity."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import console, progress, write
from onnxopt.cli.groups import command
from onnxopt.cli.options import Images, Model, RequiredData, Showing, numbers, option
from onnxopt.metrics import CHOICES
from onnxopt.report.json import to_json
from onnxopt.report.sensitivity import print_scan, render
from onnxopt.studies import sensitivity as scanning

_SETTINGS = ",".join(f"{setting:g}" for setting in scanning.SETTINGS)


@dataclass(frozen=True)
class Scanning:
    """What is done to each weight, and what is measured."""

    output: Annotated[Path | None, option("--output", "-o", help="Write an HTML page with a figure here.")] = None
    step: Annotated[str, typer.Option(help="What is done to a weight, as in plans, $x standing for the setting.")] = (
        scanning.STEP
    )
    settings: Annotated[str, typer.Option("--at", help="The settings.")] = _SETTINGS
    metric: Annotated[
        str | None, option("--metric", help=f"Measure its drop, not the noise in the outputs: {CHOICES}.")
    ] = None
    samples: Annotated[int, typer.Option(help="As many of the data.")] = scanning.SAMPLES


@command
def sensitivity(model: Model, data: RequiredData, images: Images, how: Scanning, showing: Showing) -> None:
    """Do one step to each weight alone, from strong to gentle, and measure what the model loses."""
    at = numbers("--at", how.settings) or []
    with progress(showing.verbose) as advance:
        (inputs,) = images.open(model, data)
        found = scanning.scan(
            model, inputs or data, step=how.step, settings=at, metric=how.metric, samples=how.samples, progress=advance
        )
    if how.output:
        write(how.output, render(found))
    if showing.as_json:
        print(to_json(found))
    else:
        print_scan(console(), found)
