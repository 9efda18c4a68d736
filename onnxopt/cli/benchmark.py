"""The benchmark command: measures models."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import console, print_json, progress
from onnxopt.cli.groups import command
from onnxopt.cli.options import Inputs, Running, Showing, argument, option
from onnxopt.errors import OnnxoptError
from onnxopt.measure.benchmark import LOADED
from onnxopt.measure.benchmark import benchmark as measure
from onnxopt.report.benchmark import print_benchmark

Models = Annotated[list[Path], argument(metavar="MODEL...", help="ONNX models, plain or compressed; each is compared "
                                        "with the first.")]  # fmt: skip


@dataclass(frozen=True)
class Runs(Running):
    """Options of the runs."""

    threads: Annotated[
        str | None,
        option(help="Numbers of runtime threads, such as 1,2: the first for latency, each for throughput. By default, "
                    "the runtime chooses."),
    ] = None  # fmt: skip
    batch: Annotated[str, typer.Option("--batch", help="Numbers of samples per run, such as 1,8, likewise.")] = "1,8"
    residence: Annotated[
        str,
        option(help="Where a compressed model's weights are: loaded, or streamed, which keeps them compressed and "
                    "decodes them in every run; streamed:64MiB keeps so much decoded. Several, such as "
                    "loaded,streamed, are compared."),
    ] = LOADED  # fmt: skip
    seconds: Annotated[float, typer.Option(help="Longest time for measuring the latencies of a model.")] = 60.0


@command
def benchmark(models: Models, inputs: Inputs, runs: Runs, showing: Showing) -> None:
    """Measure latency, throughput, memory and energy, and compare models."""
    counts, sizes = _counts("--threads", runs.threads), _counts("--batch", runs.batch)
    if runs.seconds <= 0:
        raise OnnxoptError(f"--seconds is {runs.seconds:g}, expected more than zero")
    with progress(showing.verbose, showing.log_json) as advance:
        (data,) = inputs.opened(models[0])
        found = measure(models, data, counts, sizes, runs.seconds, runs.residence.split(","), advance)
    if showing.as_json:
        print_json(found)
    else:
        print_benchmark(console(), found)


def _counts(name: str, text: str | None) -> list[int]:
    """Parses numbers such as ``1,8``. Raises OnnxoptError, naming the option, for anything else."""
    try:
        counts = [] if text is None else [int(word) for word in text.split(",")]
    except ValueError:
        counts = [0]
    if any(count < 1 for count in counts):
        raise OnnxoptError(f"{name} is {text!r}, expected whole numbers of at least 1, as in 1,8")
    return counts
