"""Time and memory by the size of a transformer, against what they may take."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from common import bert
from common.kept import ONNXOPT, fresh
from common.packaged import packaged, sentences
from common.pages import machine, markdown
from tables import Scope, Table

SENTENCES = 600
SHAPES = {"MiniLM-L6": bert.MINILM}


@dataclass(frozen=True, slots=True)
class Ask:
    """A run at the command line."""

    shape: str
    """A key of `SHAPES`; weights are random."""
    options: str
    data: bool
    factor: float
    """Of the source's bytes that it may take as memory, and further bytes."""
    more: float


ASKS = (Ask("MiniLM-L6", "--data --effort fast", True, 1.5, 1e9),)


@dataclass(frozen=True, slots=True)
class Row:
    """What a run took."""

    before: int
    after: int
    seconds: float
    """CPU seconds of all threads."""
    memory: int
    """Peak, in bytes."""


def write(path: Path, shape: str) -> None:
    """Writes the model."""
    onnx.save(bert.bert(SHAPES[shape], bert.drawn), path)


def run(ask: Ask) -> Row:
    """One run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        source, output, texts = (Path(folder) / name for name in ("model.onnx", "small.onnx", "texts.txt"))
        fresh(write, source, ask.shape)
        texts.write_text("\n".join(sentences(SENTENCES)), encoding="utf-8")
        given = ["--data", str(texts), "--tokenizer", str(packaged("tokenizer"))] if ask.data else []
        options = [word for word in ask.options.split() if word != "--data"]
        command = [sys.executable, "-m", "onnxopt.cli", "optimize", str(source), "-o", str(output), *given, *options]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = json.loads(subprocess.run([*command, "--json"], check=True, capture_output=True).stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Row(done["bytes_before"], done["bytes_after"], seconds, done["peak_memory"])


def measure(scope: Scope) -> list[Row]:
    """A row for each run."""
    return [ONNXOPT.once(run, ask) for ask in ASKS]


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for ask, row in zip(ASKS, rows, strict=True):
        most = ask.factor * row.before + ask.more
        lines.append(
            [ask.shape, f"`{ask.options}`", f"{row.before / 1e6:.0f}", f"{row.before / row.after:.2f}x",
             f"{row.seconds:.0f}", f"{row.seconds / (row.before / 4e6):.2f}", f"{row.memory / 1e6:.0f}",
             f"{most / 1e6:.0f}"]
        )  # fmt: skip
    columns = ["shapes", "options", "source MB", "ratio", "CPU s", "a million weights", "peak MB", "may take MB"]
    return markdown(columns, "llrrrrrr", lines) + f"\n\nOn {machine()}, with other work beside it."


TABLES = (Table("scale", "docs/engine.md", 15, measure, render),)
