"""The evaluate command: compares models on data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import console, print_json, progress
from onnxopt.cli.groups import command
from onnxopt.cli.options import Preparing, RequiredData, Running, Showing, argument
from onnxopt.measure import evaluation
from onnxopt.report.evaluation import print_evaluation

Models = Annotated[list[Path], argument(metavar="MODEL", help="ONNX models, plain or compressed; the others are "
                                        "compared with the first.")]  # fmt: skip


@command
def evaluate(models: Models, data: RequiredData, preparing: Preparing, running: Running, showing: Showing) -> None:
    """Compare models on data: accuracy, differing predictions, and whether the difference is significant."""
    with progress(showing.verbose, showing.log_json) as advance:
        (inputs,) = preparing.open(models[0], data)
        found = evaluation.evaluate(models, inputs or data, advance)
    if showing.as_json:
        print_json(found)
    else:
        print_evaluation(console(), found)
