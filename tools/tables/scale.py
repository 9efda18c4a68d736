"""Time and memory of models, against what they may take: transformers of random weights, and real networks."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnxruntime.transformers import float16

import onnxopt
from common import bert, llama, realdata, vit
from common.kept import ONNXOPT, fresh
from common.packaged import packaged, sentences
from common.pages import machine, markdown
from common.writer import Array
from onnxopt.data import Spec
from onnxopt.graph import LARGEST_INLINE
from onnxopt.spec.effort import Effort
from tables import Scope, Table
from tables.decoder import MODEL, empty, feeds, path_of

SENTENCES = 600
SHAPES = {"MiniLM-L6": bert.MINILM, "BERT-base": bert.BASE, "BERT, 24 x 1408": bert.Shape(24, 1408, 16)}
IMAGES = {"resnet50v2_imagenette": 400}
"""Real models, and the training images that they are compressed on."""
LANGUAGE, LANGUAGE_OPTIONS = "Llama, 24 x 896, float16", ("--data --effort fast", "--lossless")
"""A language model of random weights, with external data."""
VISION = "ViT-S"
"""A vision transformer of random weights."""
_PHOTOGRAPHS = 300
WORDS = llama.Drawn(llama.Shape(24, 896, 14, 2, 1e6, 1e-6), 4864, 151_936)
"""A language model of half a billion random weights."""
_WINDOWS, _TOKENS = 24, 64
FACTOR, MORE = 1.5, 1e9
"""Of the source's bytes that a run may take as memory, and further bytes."""
LOSSLESS = 1.2, 0.5e9
"""The same without loss."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A run at the command line."""

    shape: str
    """A key of `SHAPES`, with random weights; or `MODEL`."""
    options: str
    data: bool


ASKS = (
    Ask("MiniLM-L6", "--data --effort fast", True),
    Ask("MiniLM-L6", "--data", True),
    Ask("MiniLM-L6", "--lossless", False),
    Ask("BERT-base", "--data --effort fast", True),
    Ask("BERT-base", "--lossless", False),
    Ask("BERT, 24 x 1408", "--data --effort fast", True),
    Ask("BERT, 24 x 1408", "--lossless", False),
    Ask(MODEL, "--lossless", False),
)


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
    """Writes the model, with external data if it is over 2 GB."""
    if shape == MODEL:
        shutil.copyfile(path_of(MODEL), path)
        return
    model = bert.bert(SHAPES[shape], bert.drawn)
    external = sum(len(tensor.raw_data) for tensor in model.graph.initializer) >= LARGEST_INLINE
    onnx.save(model, path, save_as_external_data=external, location="weights.data")


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


def _here(source: Path, data: Spec | None, **options: Any) -> Row:
    """One run in this process."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        done = onnxopt.optimize(source, Path(folder) / "small.onnx", data=data, **options)
        return Row(done.bytes_before, done.bytes_after, time.process_time() - started, done.peak_memory or 0)


def real(model: str, images: int) -> Row:
    """A real model by default, in this process, which holds its images."""
    return _here(realdata.path_of(model), realdata.TASKS[model].batches("train", images))


def vision(effort: str) -> Row:
    """The vision transformer, in this process, which holds its photographs."""
    data = realdata.TASKS["resnet50v2_imagenette"].batches("train", _PHOTOGRAPHS)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        fresh(write_vision, source)
        return _here(source, data, effort=Effort(effort))


def language(options: str) -> Row:
    """The language model, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "model.onnx"
        fresh(write_language, source)
        if "--lossless" in options:
            return _here(source, None, lossless=True)
        return _here(source, _windows, effort=Effort.FAST)


def _windows() -> Iterator[dict[str, Array]]:
    """Random tokens, before which there is nothing."""
    tokens = np.random.default_rng(0).integers(0, WORDS.words, (_WINDOWS, 1, _TOKENS))
    for window in tokens:
        yield feeds(window, empty(WORDS.shape, 1))


def write_language(path: Path) -> None:
    """Writes the language model in float16, its inputs and outputs in float32, with external data."""
    model = float16.convert_float_to_float16(llama.llama(WORDS), keep_io_types=True, disable_shape_infer=True)
    onnx.save(model, path, save_as_external_data=True, location="weights.data")


def write_vision(path: Path) -> None:
    """Writes the vision transformer."""
    onnx.save(vit.vit(vit.SMALL, bert.drawn), path)


def measure(scope: Scope) -> list[tuple[str, str, Row]]:
    """Each run: the model, its options, and what it took."""
    rows = [(ask.shape, f"`{ask.options}`", ONNXOPT.once(run, ask)) for ask in ASKS]
    rows.append((VISION, "`--data --effort fast`", ONNXOPT.once(vision, "fast")))
    rows += [(LANGUAGE, f"`{options}`", ONNXOPT.once(language, options)) for options in LANGUAGE_OPTIONS]
    return rows + [(model, "`--data`", ONNXOPT.once(real, model, IMAGES[model])) for model in scope.models]


def render(rows: Sequence[tuple[str, str, Row]]) -> str:
    """The rows in Markdown."""
    lines = []
    for name, options, row in rows:
        most = LOSSLESS[0] * row.before + LOSSLESS[1] if "--lossless" in options else FACTOR * row.before + MORE
        weights = row.before / (2e6 if name == LANGUAGE else 4e6)  # in millions
        lines.append(
            [name, options, f"{row.before / 1e6:.0f}", f"{row.before / row.after:.2f}x", f"{row.seconds:.0f}",
             f"{row.seconds / weights:.2f}", f"{row.memory / 1e6:.0f}", f"{most / 1e6:.0f}"]
        )  # fmt: skip
    columns = ["model", "options", "source MB", "ratio", "CPU s", "a million weights", "peak MB", "may take MB"]
    return markdown(columns, "llrrrrrr", lines) + f"\n\nOn {machine()}, with other work beside it."


TABLES = (Table("scale", "docs/engine.md", 15, measure, render, tuple(IMAGES)),)
