"""Time and memory of single runs, against what they may take on two cores."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common import networks, realdata
from common.kept import ONNXOPT, fresh
from common.pages import machine, markdown
from common.runs import Run, training_images
from tables import Scope, Table
from tables.ratios import Ask, run

SECONDS = {Ask("resnet56", 12, None): 180, Ask("squeezenet1.1", 7, None): 120}
"""What runs may take on two cores."""
LARGE, LARGE_RATIO, LARGE_SECONDS = "resnet50", 10.0, 360
"""The network of `networks.resnet50`, likewise."""


@dataclass(frozen=True, slots=True)
class Row:
    """One run."""

    model: str
    images: str
    run: Run
    seconds: float
    """What it may take."""


def write_large(path: Path) -> None:
    """Writes the large network."""
    path.write_bytes(networks.resnet50().SerializeToString())


def large_run() -> Run:
    """ResNet-50's shapes on ImageNet's training photographs, at the command line."""
    photographs = realdata.DATA / "imagenet" / "els300"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "resnet50.onnx"
        fresh(write_large, source)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        program, output = Path(sys.executable).with_name("onnxopt"), Path(folder) / "small.onnx"
        asked = f"--preprocess imagenet --target-ratio {LARGE_RATIO} --json".split()
        command = [str(word) for word in (program, "optimize", source, "-o", output, "--data", photographs, *asked)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(done["bytes_before"], done["bytes_after"], done["seconds"], cpu_seconds, done["peak_memory"], None,
               float("nan"))  # fmt: skip


def measure(scope: Scope) -> list[Row]:
    """Every run."""
    rows = [
        Row(ask.model, training_images(ask.model, ask.images), run(ask, scope.limit), seconds)
        for ask, seconds in SECONDS.items()
        if ask.model in scope.models
    ]
    if LARGE in scope.models:
        name = "25.5 million random weights in ResNet-50's shapes"
        rows.append(Row(name, "300 of ImageNet", ONNXOPT.once(large_run), LARGE_SECONDS))
    return rows


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for row in rows:
        done = row.run
        line = [row.model, row.images, f"{done.bytes_before / 1e6:.1f}", f"{done.ratio:.2f}x"]
        line += [f"{value:.0f}" for value in (done.seconds, done.cpu_seconds, row.seconds)]
        line += [f"{done.peak_memory / 1e6:.0f}", f"{(4 * done.bytes_before + 10**9) / 1e6:.0f}"]
        lines.append(line)
    columns = ["model", "training images", "source MB", "ratio", "s", "CPU s", "may take s", "peak MB", "may take MB"]
    return markdown(columns, "llrrrrrrr", lines) + f"\n\nOn {machine()}."


TABLES = (Table("costs", "docs/engine.md", 8, measure, render, tuple(ask.model for ask in SECONDS), (LARGE,)),)
