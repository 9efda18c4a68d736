"""The command that measures models: benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import app, console, progress
from onnxopt.cli.options import (
    DataOption,
    Images,
    Json,
    Layout,
    Mean,
    Preprocess,
    Size,
    Std,
    Verbose,
    argument,
    option,
)
from onnxopt.errors import OnnxoptError
from onnxopt.measure.benchmark import benchmark as measure
from onnxopt.report.benchmark import print_benchmark
from onnxopt.report.json import to_json

Models = Annotated[list[Path], argument(metavar="MODEL...", help="ONNX models, plain or compressed; each is compared "
                                        "with the first.")]  # fmt: skip
Threads = Annotated[str | None, option(help="Threads of the runtime, as in 1,2: latency is measured with the first, "
                                       "throughput with each. Its own choice where not given.")]  # fmt: skip
Batches = Annotated[str, typer.Option("--batch", help="Samples of a run, likewise.")]
Seconds = Annotated[float, typer.Option(help="What latencies take for each model at most, while they are not certain.")]


@app.command()
def benchmark(
    models: Models,
    data: DataOption = None,
    preprocess: Preprocess = None,
    mean: Mean = None,
    std: Std = None,
    layout: Layout = None,
    size: Size = None,
    threads: Threads = None,
    batch: Batches = "1,8",
    seconds: Seconds = 60.0,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Measure latency, throughput, memory and energy, and compare models."""
    counts, sizes = _counts("--threads", threads), _counts("--batch", batch)
    if seconds <= 0:
        raise OnnxoptError(f"--seconds is {seconds:g}, expected more than zero")
    with progress(verbose) as advance:
        (inputs,) = Images(preprocess, mean, std, layout, size).open(models[0], data)
        found = measure(models, inputs, counts, sizes, seconds, advance)
    if as_json:
        print(to_json(found))
    else:
        print_benchmark(console(), found)


def _counts(name: str, text: str | None) -> list[int]:
    """``1,8``. Raises OnnxoptError where the option of this name is something else."""
    try:
        counts = [] if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise OnnxoptError(f"{name} is {text!r}, expected whole numbers of at least 1, as in 1,8")
    return counts
