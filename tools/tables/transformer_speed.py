"""Transformers with `--for speed` beside `quantize_dynamic`: time, noise and bytes.

onnxopt gets less than half of the other file's noise as its bound, measured on the inputs that it is given.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnxruntime

import onnxopt
from common.deployed import DEPLOYED, given, path_of
from common.kept import ONNXOPT
from common.packaged import ENCODER
from common.pages import machine, markdown
from onnxopt import Contract
from onnxopt.data import cores
from onnxopt.measure.benchmark import SpeedRatio, time_ratios
from tables import Scope, Table
from tables.transformers import Cell, dynamic, measured

MODELS = (ENCODER, "all-MiniLM-L6-v2")
SHARE = 0.45
"""Of the other file's noise."""
SECONDS, FEEDS = 60.0, 16
"""Most time of a race, and its inputs, in turns."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model in float, by `quantize_dynamic`, and by onnxopt."""

    name: str
    dynamic: Cell
    ours: Cell
    slower: SpeedRatio
    """Time of the float model over that of `quantize_dynamic`."""
    against: SpeedRatio
    """Time of onnxopt's over that of `quantize_dynamic`."""


def row(name: str) -> Row:
    """Makes the files, measures them, and lets the three models take turns."""
    logging.disable(logging.WARNING)  # a line for each node
    source = path_of(name)
    with tempfile.TemporaryDirectory() as folder:
        fast, small = (Path(folder) / f"{one}.onnx" for one in ("dynamic", "small"))
        dynamic(source, fast)
        bound = round(SHARE * measured(name, fast, "given").noise, 4)
        onnxopt.optimize(source, small, Contract(error=bound), given(name, Path(folder)), goal="speed")
        feeds = DEPLOYED[name].feeds(name, "kept")[:FEEDS]
        slower, against = time_ratios([source, small], fast, feeds, SECONDS, lambda share: None)
        return Row(name, measured(name, fast), measured(name, small), slower, against)


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [ONNXOPT.once(row, name) for name in MODELS]


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for one in rows:
        for tool, cell in (("`quantize_dynamic`", one.dynamic), ("`onnxopt --for speed`", one.ours)):
            time = _ratio(one.against) if cell is one.ours else "1"
            over = (one.against.ratio if cell is one.ours else 1.0) / one.slower.ratio
            lines.append([one.name, tool, f"{cell.ratio:.2f}x", f"{cell.noise:.4f}", f"{cell.same:.0f} %",
                          f"{over:.2f}", time])  # fmt: skip
    columns = ["model", "tool", "ratio", "noise", "answers", "time over float's", "over `quantize_dynamic`'s"]
    threads = f"{cores()} thread{'s' * (cores() > 1)}"
    return (
        f"{markdown(columns, 'llrrrrr', lines)}\n\nONNX Runtime {onnxruntime.__version__}, {threads}, on {machine()}."
    )


def _ratio(pair: SpeedRatio) -> str:
    return f"{pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f})"


TABLES = (Table("transformers-speed", "docs/transformers.md", 20, measure, render),)
