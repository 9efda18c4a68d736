"""The command that compares models on data: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import app, console, progress
from onnxopt.cli.options import Images, Json, Layout, Mean, Preprocess, Size, Std, Verbose, argument, option
from onnxopt.measure import evaluation
from onnxopt.report.evaluation import print_evaluation
from onnxopt.report.json import to_json

Models = Annotated[list[Path], argument(metavar="MODEL", help="ONNX models, plain or compressed; the first is what "
                                        "the others are compared with.")]  # fmt: skip
DataOption = Annotated[str, option("--data", metavar="DATA", help="Inputs, and labels where there are any: .npz, .npy, "
                                   "a folder of images, or package.module:function.")]  # fmt: skip


@app.command()
def evaluate(
    models: Models,
    data: DataOption,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare models on data: accuracy, what each answers otherwise, and whether that is more than chance."""
    with progress(verbose) as advance:
        (inputs,) = Images(preprocess, mean, std, layout, size).open(models[0], data)
        found = evaluation.evaluate(models, inputs or data, advance)
    if as_json:
        print(to_json(found))
    else:
        print_evaluation(console(), found)
