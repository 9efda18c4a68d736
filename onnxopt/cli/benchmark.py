"""The command that measures models: benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from onnxopt.cli.app import console, progress
from onnxopt.cli.groups import command
from onnxopt.cli.options import Inputs, Showing, argument, option
from onnxopt.errors import OnnxoptError
from onnxopt.measure.benchmark import benchmark as measure
from onnxopt.report.benchmark import print_benchmark
from onnxopt.report.json import to_json

Models = Annotated[list[Path], argument(metavar="MODEL...", help="ONNX models, plain or compressed; each is compared "
                                        "with the first.")]  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """What is run."""

    threads: Annotated[
        str | None,
        option(help="Threads of the runtime, as in 1,2: latency is measured with the first, throughput with each. The "
                    "runtime's own choice where not given."),
    ] = None  # fmt: skip
    batch: Annotated[str, typer.Option("--batch", help="Samples of a run, as in 1,8, likewise.")] = "1,8"
    seconds: Annotated[
        float, typer.Option(help="Most that the latencies of a model take, while they are not certain.")
    ] = 60.0


@command
def benchmark(models: Models, inputs: Inputs, runs: Runs, showing: Showing) -> None:
    """Measure latency, throughput, memory and energy, and compare models."""
    counts, sizes = _counts("--threads", runs.threads), _counts("--batch", runs.batch)
    if runs.seconds <= 0:
        raise OnnxoptError(f"--seconds is {runs.seconds:g}, expected more than zero")
    with progress(showing.verbose) as advance:
        (data,) = inputs.opened(models[0])
        found = measure(models, data, counts, sizes, runs.seconds, advance)
    if showing.as_json:
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
