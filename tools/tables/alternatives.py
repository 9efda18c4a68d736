"""onnxopt beside what people would use instead, on models of four kinds: bytes, answers and time, in one run.

Every tool has its default settings, with scales per channel where it has a choice, and those that take data have the
same samples. No sample that answers are counted on was given to any of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime
import zstandard
from onnxruntime import quantization

import onnxopt
from common import realdata, speech, static_int8
from common.control import quantized
from common.kept import ONNXOPT, RUNTIME
from common.packaged import ENCODER, encoded, other_sentences, packaged, sentences
from common.pages import machine, markdown
from tables import CannotMeasureError, Scope, Table

Feeds = dict[str, Any]
VERSION = onnxruntime.__version__

MODELS = ("resnet56", "squeezenet1.1", "mobilenet_v2", "mobilefacenet", "silero_half")
"""Those of tasks and of speech; the encoder of sentences comes from a package."""
SAMPLES, SENTENCES = 300, 1000
"""Given to the tools that take data; of the encoder, those that answers are counted on."""
PROCESSES, ROUNDS, BLOCK = 5, 6, 0.1
"""In each of so many processes, each file runs in so many turns for so many seconds."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A column."""

    name: str
    make: Callable[[Path, str], object]
    """Writes the file for a model; raises where it cannot."""
    data: bool
    runs: str
    """What runs the file."""
    packed: bool = False
    """Whether the file has to be unpacked before it runs."""


def source(model: str) -> Path:
    """The model's file."""
    return packaged(model) if model == ENCODER else realdata.path_of(model)


def given(model: str) -> list[Feeds]:
    """One-sample feeds for the tools that take data."""
    if model == ENCODER:
        return list(encoded(sentences(SAMPLES)))
    if model in speech.FEEDS:
        return speech.feeds(model)[::2]
    name = realdata.plain_session(source(model)).get_inputs()[0].name
    images = (image for batch in realdata.TASKS[model].batches("train", SAMPLES)() for image in batch)
    return [{name: image[None]} for image in images]


def _dynamic(output: Path, model: str) -> None:
    if model in realdata.TASKS:
        raise CannotMeasureError("ONNX Runtime's documentation advises quantize_static for convolutional networks")
    quantization.quantize_dynamic(source(model), output, per_channel=True, weight_type=quantization.QuantType.QInt8)


def _static(output: Path, model: str) -> None:
    static_int8.int8(source(model), output, partial(given, model))


def _blocks(output: Path, model: str) -> None:
    from onnxruntime.quantization.matmul_nbits_quantizer import (  # noqa: PLC0415 - needs onnx-ir
        MatMulNBitsQuantizer,
    )

    quantizer = MatMulNBitsQuantizer(onnx.load(source(model)), bits=4, block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


def _packed(output: Path, model: str) -> None:
    _, stored = quantized(onnx.load(source(model)), 8)
    output.write_bytes(zstandard.ZstdCompressor(level=19).compress(stored.SerializeToString()))


def _unpacked(output: Path, model: str) -> None:
    running, _ = quantized(onnx.load(source(model)), 8)
    onnx.save(running, output)


def _alone(output: Path, model: str) -> None:
    onnxopt.optimize(source(model), output)


def _with_data(output: Path, model: str) -> None:
    onnxopt.optimize(source(model), output, None, partial(given, model))


TOOLS = (
    Tool("`quantize_dynamic`", _dynamic, False, "ONNX Runtime"),
    Tool("`quantize_static`", _static, True, "ONNX Runtime"),
    Tool("MatMulNBits, 4 bits", _blocks, False, "ONNX Runtime"),
    Tool("int8, zstd -19", _packed, False, "once unpacked", packed=True),
    Tool("**onnxopt**", _alone, False, "with our library"),
    Tool("**onnxopt `--data`**", _with_data, True, "with our library"),
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A model in the hands of a tool."""

    ratio: float
    answers: str
    time: float
    """The file's over the source's."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model."""

    model: str
    size: int
    answers: str
    """Of the source."""
    seconds: float
    """A run of the source."""
    cells: tuple[Cell | None, ...]
    """By tool; None where it leaves the model as it is, or fails."""


def answers(model: str, file: Path) -> str:
    """What counts of a file's answers: accuracy on the test part, or how near they are to the source's."""
    session = realdata.registered_session(file)
    if model in realdata.TASKS:
        return f"{realdata.evaluate(model, session).metric:.2f} %"
    original = realdata.plain_session(source(model))
    if model == ENCODER:
        name, feeds = "461", list(encoded(other_sentences(SENTENCES)))
        a, b = (np.concatenate([one.run([name], feed)[0] for feed in feeds]) for one in (original, session))
        return f"{float(np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))):.4f}"
    feeds = speech.feeds(model)[1::2]
    a, b = (np.array([float(one.run(None, feed)[0].ravel()[0]) > 0.5 for feed in feeds]) for one in (original, session))
    return f"{100 * float(np.mean(a == b)):.1f} %"


def timed(model: str, files: tuple[Path, ...], process: int) -> tuple[float, list[float]]:
    """Seconds of a run of the model's file, and the time of each of these over it: medians of the rounds, in each of
    which all files take turns, with one thread and one sample.

    Seconds are those that the thread had the processor, so that other work on the machine counts little. Where a
    session lies in memory changes its time by a tenth, so this is called in several processes, which load in another
    order.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    every = [source(model), *files]
    first = process * len(every) // PROCESSES
    opened = {i % len(every): onnxopt.load(every[i % len(every)], options) for i in range(first, first + len(every))}
    sessions = [opened[i] for i in range(len(every))]
    feed = given(model)[0]
    counts = [max(1, round(BLOCK / min(_seconds(session, feed, 1) for _ in range(3)))) for session in sessions]
    rounds = []
    for number in range(ROUNDS):
        turns = range(len(sessions)) if number % 2 else reversed(range(len(sessions)))
        rounds.append({i: _seconds(sessions[i], feed, counts[i]) for i in turns})
    ratios = [median(times[i] / times[0] for times in rounds) for i in range(1, len(sessions))]
    return median(times[0] for times in rounds), ratios


def _seconds(session: onnxruntime.InferenceSession, feed: Feeds, count: int) -> float:
    started = time.thread_time()
    for _ in range(count):
        session.run(None, feed)
    return max(time.thread_time() - started, 1e-9) / count


def made(model: str, tool: Tool) -> Path | None:
    """The file, kept; None where the tool fails, or writes one that is hardly smaller."""
    kept = ONNXOPT if tool.make in (_alone, _with_data) else RUNTIME
    try:
        file = kept.made(tool.make, model)
    except Exception as error:
        print(f"{model}: {tool.name}: {error}")
        return None
    return file if file.stat().st_size < 0.9 * source(model).stat().st_size else None


def row(model: str) -> Row:
    """One model through all tools."""
    files = {tool: file for tool in TOOLS if (file := made(model, tool)) is not None}
    runs = {tool: RUNTIME.made(_unpacked, model) if tool.packed else file for tool, file in files.items()}
    found = [RUNTIME.once(timed, model, tuple(runs.values()), process) for process in range(PROCESSES)]
    seconds = median(one for one, _ in found)
    times = dict(zip(runs, map(median, zip(*(ratios for _, ratios in found), strict=True)), strict=True))
    size = source(model).stat().st_size
    cells = {
        tool: Cell(size / file.stat().st_size, RUNTIME.once(answers, model, runs[tool]), times[tool])
        for tool, file in files.items()
    }
    return Row(model, size, RUNTIME.once(answers, model, source(model)), seconds, tuple(map(cells.get, TOOLS)))


def measure(scope: Scope) -> list[Row]:
    """A row for each model; the encoder's only with all others."""
    return [row(model) for model in (*scope.models, *((ENCODER,) if set(MODELS) <= set(scope.models) else ()))]


def render(rows: Sequence[Row]) -> str:
    """A row for each model and what it needs, a column for each tool."""
    lines = [[row.model, _source(row), *map(_cell, row.cells)] for row in rows]
    lines.append(["needs data", "", *("yes" if tool.data else "no" for tool in TOOLS)])
    lines.append(["runs in", "ONNX Runtime", *(tool.runs for tool in TOOLS)])
    table = markdown(["model", "source", *(tool.name for tool in TOOLS)], "ll" + "r" * len(TOOLS), lines)
    how = f"Time of one sample on one thread, medians of {PROCESSES} processes"
    return f"{table}\n\n{how}; ONNX Runtime {VERSION}, {machine()}."


def _source(row: Row) -> str:
    return "<br>".join((f"{row.size / 1e6:.1f} MB", row.answers, f"{1e3 * row.seconds:.3g} ms"))


def _cell(cell: Cell | None) -> str:
    return "-" if cell is None else "<br>".join((f"**{cell.ratio:.1f}x**", cell.answers, f"{cell.time:.2f}x time"))


HEADLINES = ("squeezenet1.1", "silero_half", ENCODER)
"""Models of three kinds, for the top of the page."""
_UNITS = {"squeezenet1.1": "top-1", "silero_half": "of its decisions", ENCODER: "cosine of its embeddings"}


def headline(rows: Sequence[Row]) -> str:
    """What onnxopt does with data, and the runtime's own quantizer beside it (the one that its documentation advises),
    for a model of each kind."""
    lines = []
    for row in (row for row in rows if row.model in HEADLINES):
        tool, theirs = next((tool, cell) for tool, cell in zip(TOOLS, row.cells, strict=True) if cell)
        ours = row.cells[-1]
        assert ours
        kept = f"{row.answers} -> {ours.answers} {_UNITS[row.model]}"
        lines.append(
            f"- **{ours.ratio:.1f}x smaller**: {row.model}, {kept} ({tool.name}: {theirs.ratio:.1f}x, {theirs.answers})"
        )
    return "\n".join(lines)


TABLES = (
    Table("alternatives", "README.md", 25, measure, render, MODELS),
    Table("headline", "README.md", 25, measure, headline, MODELS),
)
