"""What `--dry-run` says and the progress bar shows, against the runs themselves."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import onnxopt
from common import realdata
from common.kept import ONNXOPT, fresh
from common.pages import machine, markdown
from onnxopt.build.schedule import Schedule
from onnxopt.cli.time_left import Even
from onnxopt.studies.dry_run import dry_run
from tables import Scope, Table

IMAGES = {"digits": 1000, "lenet5": 2000, "resnet20": 2000, "squeezenet1.1": 300}
"""Training images of the runs with data."""
BESIDES: dict[str, tuple[dict[str, str], ...]] = {
    "digits": ({"goal": "speed"}, {"tune": "40epochs"}),
    "lenet5": ({"tune": "6epochs"},),
}
"""What takes time besides the search, on a part of the images."""
PART = 500
_FROM, _EVERY = 10.0, 0.5
"""Seconds from which the time left is judged, and how often."""
_NEAR, _ROUNDED = 1 / 3, 1.0
"""The share of the true time left by which what is shown may differ, and the seconds, as whole ones are shown."""


@dataclass(frozen=True, slots=True)
class Said:
    """A dry run."""

    seconds: float
    memory: int
    trials: int
    took: float


@dataclass(frozen=True, slots=True)
class Took:
    """A run."""

    seconds: float
    """From the start of `optimize` to its end."""
    cpu_seconds: float
    memory: int
    trials: int
    right: int
    """Moments at which the time left that was shown was right."""
    moments: int
    load: float
    """Mean number of processes that wanted a core in the last minute, of this and other work."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model with or without data."""

    model: str
    options: str
    images: int | None
    said: Said
    took: Took


def _write(model: str, images: int, file: Path) -> None:
    """Writes the training images to a file."""
    name = realdata.plain_session(realdata.path_of(model)).get_inputs()[0].name
    arrays = {name: np.concatenate(list(realdata.TASKS[model].batches("train", images)()))}
    np.savez(file, **arrays)  # type: ignore[arg-type]


def forecast(model: str, data: Path | None, **options: str) -> Said:
    """A dry run."""
    found = dry_run(realdata.path_of(model), None, data, **options)  # type: ignore[arg-type]
    return Said(found.seconds, found.peak_memory, found.trials, found.took)


def real(model: str, data: Path | None, **options: str) -> Took:
    """A run, with what the progress bar shows."""
    left, shown = Even(), list[tuple[float, float | None]]()

    def tell(what: str, share: float) -> None:
        now = time.monotonic()
        shown.append((now, left(share, now)))

    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        began, cpu = time.monotonic(), time.process_time()
        done = onnxopt.optimize(realdata.path_of(model), small, None, data, progress=Schedule(tell), **options)  # type: ignore[arg-type]
        ended = time.monotonic()
    right, moments = (0, 0) if "goal" in options else judged(shown, began, ended)  # the bar tells none then
    return Took(ended - began, time.process_time() - cpu, done.peak_memory or 0, len(done.trials), right, moments,
                os.getloadavg()[0])  # fmt: skip


def judged(shown: Sequence[tuple[float, float | None]], began: float, ended: float) -> tuple[int, int]:
    """At how many moments the time left that a bar shows is right, and how many there are.

    Arguments:
        shown: when it was told anew, and how many seconds were left then; in between it counts down.
    """
    right = moments = 0
    at = began + _FROM
    while at < ended:
        last = next((one for one in reversed(shown) if one[0] <= at), (at, None))
        says = None if last[1] is None else max(0.0, last[1] - (at - last[0]))
        right += says is not None and abs(says - (ended - at)) <= max(_ROUNDED, _NEAR * (ended - at))
        moments, at = moments + 1, at + _EVERY
    return right, moments


def measure(scope: Scope) -> list[Row]:
    """Every model, without data and with it."""
    rows = []
    for model in scope.models:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "train.npz"
            fresh(_write, model, IMAGES[model], file)  # in a process of its own, as its memory would count
            for images, data in ((None, None), (IMAGES[model], file)):
                said, took = ONNXOPT.once(forecast, model, data), ONNXOPT.once(real, model, data)
                rows.append(Row(model, "", images, said, took))
    return rows


def measure_besides(scope: Scope) -> list[Row]:
    """Every model with every one of `BESIDES`."""
    rows = []
    for model in scope.models:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "train.npz"
            fresh(_write, model, PART, file)
            for options in BESIDES[model]:
                said = ONNXOPT.once(forecast, model, file, **options)
                words = " ".join(f"--{'for' if key == 'goal' else key} {value}" for key, value in options.items())
                rows.append(Row(model, f"`{words}`", PART, said, ONNXOPT.once(real, model, file, **options)))
    return rows


def render(rows: Sequence[Row]) -> str:
    """One row a run."""
    lines = []
    for row in rows:
        said, took = row.said, row.took
        line = [
            f"{row.model} {row.options}".rstrip(),
            "none" if row.images is None else str(row.images),
            f"{said.took:.1f}",
        ]
        line += [f"{said.seconds:.0f}", f"{took.seconds:.0f}", f"{took.cpu_seconds:.0f}", f"{took.load:.0f}"]
        line += [str(said.trials), str(took.trials), f"{said.memory / 1e6:.0f}", f"{took.memory / 1e6:.0f}"]
        line.append(f"{100 * took.right / took.moments:.0f} % of {took.moments}" if took.moments else "")
        lines.append(line)
    columns = [
        "model",
        "images",
        "dry run s",
        "said s",
        "took s",
        "CPU s",
        "load",
        "tries said",
        "took",
        "MB said",
        "took",
    ]
    apart = [max(row.said.seconds / row.took.seconds, row.took.seconds / row.said.seconds) for row in rows]
    memory = [max(row.said.memory / row.took.memory, row.took.memory / row.said.memory) for row in rows]
    far = (
        f"Time is off by up to {max(apart):.1f}x (median {np.median(apart):.2f}x), memory by up to {max(memory):.2f}x."
    )
    right, moments = sum(row.took.right for row in rows), sum(row.took.moments for row in rows)
    bar = f" The time left was right at {100 * right / moments:.0f} % of {moments} moments." if moments else ""
    return markdown([*columns, "time left right"], "l" + "r" * 11, lines) + f"\n\n{far}{bar} On {machine()}."


TABLES = (
    Table("forecast", "docs/engine.md", 6, measure, render, tuple(IMAGES)),
    Table("besides", "docs/engine.md", 8, measure_besides, render, tuple(BESIDES)),
)
