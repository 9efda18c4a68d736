"""Other tools beside onnxopt: how small each makes a network that may lose so many points.

Each tool writes a ladder of files, from its gentlest setting to the first that loses more than a point. NNCodec and
CERWU are optional; `common.nncodec` and `common.cerwu` say how to get them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

from common import cerwu, nncodec, realdata
from common.cerwu import Setting
from common.control import BITS, control
from common.kept import ONNXOPT, RUNTIME
from common.nncodec import Coded
from common.pages import machine, markdown
from common.runs import optimize, original
from common.static_int8 import int8
from onnxopt import Contract
from tables import Scope, Table


@dataclass(frozen=True, slots=True)
class Ladder:
    """What the tools are asked for, gentlest first."""

    calibrated: tuple[float, ...]
    """Ratios, of onnxopt with images."""
    blind: tuple[float, ...]
    """Ratios, of onnxopt without data."""
    qps: tuple[int, ...]
    """NNCodec's quantization parameters."""
    cerwu: tuple[Setting, ...]


_CERWU = (Setting(64, 1e-4), Setting(32, 3e-4), Setting(32, 1e-3), Setting(32, 2e-3), Setting(32, 4e-3))
"""For the ResNets."""
LADDERS = {
    "lenet5": Ladder(
        (25, 32, 40, 48, 56), (20, 25, 32, 40, 48), (-24, -22, -20, -18, -16, -14),
        tuple(Setting(16, cost) for cost in (1e-5, 5e-5, 1e-4, 2e-4, 4e-4)),
    ),
    "resnet20": Ladder((10, 12, 14, 17), (7.5, 10, 12, 14), (-36, -34, -32, -30, -28), _CERWU),
    "resnet32": Ladder((10, 12, 14, 17), (7.5, 10, 12, 14), (-36, -34, -32, -30, -28), _CERWU),
    "resnet56": Ladder((14, 17, 20, 24), (8.5, 11, 14, 17), (-36, -34, -32, -30, -28), _CERWU),
}  # fmt: skip
IMAGES = 2000
"""Of the training part."""
TESTED = 5000
"""Images of the test part, spread evenly over it."""
Asked = TypeVar("Asked")
ALLOWED = (0.1, 0.3, 1.0)
"""Points that may be lost."""


@dataclass(frozen=True, slots=True)
class File:
    """What a tool made at one setting."""

    ratio: float
    lost: float
    """Points, on the test part."""
    cpu_seconds: float | None


@dataclass(frozen=True, slots=True)
class Row:
    """A tool on a model."""

    model: str
    tool: str
    files: tuple[File, ...]
    missing: str = ""
    """Why there are no files."""


def static(model: str, limit: int | None) -> tuple[float, float, float]:
    """Ratio, metric and CPU seconds of the runtime's own INT8 model."""
    source = realdata.path_of(model)
    with tempfile.TemporaryDirectory() as folder:
        small, started = Path(folder) / "int8.onnx", time.process_time()
        int8(source, small, realdata.TASKS[model].batches("train", 128))
        seconds, ratio = time.process_time() - started, source.stat().st_size / small.stat().st_size
        metric = realdata.evaluate(model, realdata.plain_session(small), limit=limit).metric
    return ratio, metric, seconds


def measure(scope: Scope) -> list[Row]:
    """Each tool on each model."""
    return [row for model in scope.models for row in _rows(model, scope.limit or TESTED)]


def _rows(model: str, limit: int) -> Iterator[Row]:
    before = original(model, limit)

    def asked(ratio: float, images: int | None) -> File:
        run = ONNXOPT.once(optimize, model, Contract(target_ratio=ratio), images, limit)
        return File(run.ratio, before - run.metric, run.cpu_seconds)

    def bits(width: int) -> File:
        found = control(model, width, limit)
        return File(found.ratio, before - found.metric, None)

    def files(found: Sequence[Coded]) -> tuple[File, ...]:
        return tuple(File(one.ratio, before - one.metric, one.cpu_seconds) for one in found)

    least = before - max(ALLOWED)
    ladder = LADDERS[model]
    yield Row(model, f"onnxopt, {IMAGES:,} images", _ladder(lambda ratio: asked(ratio, IMAGES), ladder.calibrated))
    yield Row(model, "onnxopt, no data", _ladder(lambda ratio: asked(ratio, None), ladder.blind))
    if nncodec.PYTHON:
        coded = RUNTIME.once(nncodec.ladder, model, ladder.qps, least, limit)
        yield Row(model, "NNCodec 2, dependent quantization", files(coded))
    else:
        yield Row(model, "NNCodec 2", (), "not installed")
    if nncodec.PYTHON and cerwu.FOLDER:
        coded = RUNTIME.once(cerwu.ladder, model, ladder.cerwu, IMAGES, least, limit)
        yield Row(model, f"CERWU, {IMAGES:,} images", files(coded))
    else:
        yield Row(model, "CERWU", (), "not installed")
    yield Row(model, "integers per channel, zstd -19", _ladder(bits, BITS))
    ratio, metric, seconds = RUNTIME.once(static, model, limit)
    yield Row(model, "quantize_static, 128 images", (File(ratio, before - metric, seconds),))


def _ladder(make: Callable[[Asked], File], settings: Sequence[Asked]) -> tuple[File, ...]:
    """The files of these settings, gentlest first, up to the first that loses more than may be lost."""
    files = list[File]()
    for setting in settings:
        files.append(make(setting))
        if files[-1].lost > max(ALLOWED):
            break
    return tuple(files)


def render(rows: Sequence[Row]) -> str:
    """One row for a tool on a model."""
    lines = []
    for row in rows:
        cells = [row.model, row.tool if not row.missing else f"{row.tool}: {row.missing}"]
        for allowed in ALLOWED:
            kept = [file.ratio for file in row.files if round(file.lost, 6) <= allowed]
            cells.append(f"{max(kept):.2f}x" if kept else "-")
        times = [file.cpu_seconds for file in row.files if file.cpu_seconds is not None]
        lines.append([*cells, str(len(row.files) or ""), f"{median(times):.1f}" if times else ""])
    columns = ["model", "tool", *(f"-{allowed:g}" for allowed in ALLOWED), "files", "CPU s"]
    return markdown(columns, "llrrrrr", lines) + f"\n\nOn {machine()}."


TABLES = (Table("peers", "docs/peers.md", 60, measure, render, tuple(LADDERS)),)
