"""Models that packages carry, deployed as they are: onnxopt beside the runtime's own quantizers, with and without data.

Each file is measured on inputs that no tool was given.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime import InferenceSession, quantization
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

import onnxopt
from common import realdata
from common.deployed import DEPLOYED, Array, Part, answers, given, path_of
from common.kept import ONNXOPT, RUNTIME
from common.pages import machine, markdown
from onnxopt import Contract
from onnxopt.spec.effort import Effort
from tables import Scope, Table

MARGIN = 0.8
"""The share of another tool's noise that onnxopt gets as its bound."""
LEAST = 0.9
"""Of the source's bytes: a file that is larger is the source with a layer or two changed."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A model in the hands of a tool."""

    ratio: float
    noise: float
    """Noise over signal on inputs that were not given."""
    same: float
    """Percent of the answers that stay."""
    announced: float | None = None
    """What onnxopt said of the noise."""
    seconds: float = 0.0
    """CPU seconds."""
    memory: int = 0
    """Peak, in bytes."""
    why: str = ""
    """Why weights stay as they are."""
    given: float = float("inf")
    """Noise over signal of another tool on the inputs that onnxopt is given."""


def dynamic(source: Path, output: Path) -> None:
    """Scales per channel where the runtime can run the file, which it cannot for convolutions."""
    for channels, kind in ((True, quantization.QuantType.QInt8), (False, quantization.QuantType.QUInt8)):
        with suppress(Exception):
            quantization.quantize_dynamic(source, output, per_channel=channels, weight_type=kind)
            InferenceSession(str(output), realdata.options())
            return
    raise ValueError("quantize_dynamic writes no file that runs")


def _blocks(bits: int, source: Path, output: Path) -> None:
    operators = ("MatMul", "Gather") if bits == 4 else ("MatMul",)  # tables have 4 bits only
    config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=bits, op_types_to_quantize=operators)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), algo_config=config)
    quantizer.process()
    quantizer.model.save_model_to_file(str(output))


OTHERS: dict[str, Callable[[Path, Path], None]] = {
    "`quantize_dynamic`": dynamic,
    "MatMulNBits, 4 bits": lambda source, output: _blocks(4, source, output),
    "MatMulNBits, 8 bits": lambda source, output: _blocks(8, source, output),
}


def noise_over_signal(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    """Root of the summed squared differences over that of the original's outputs."""
    noise = sum(float(np.square(b.astype(np.float64) - a).sum()) for a, b in zip(wanted, got, strict=True))
    return float(np.sqrt(noise / sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted)))


def measured(name: str, file: Path, part: Part = "kept") -> Cell:
    """What a file does on a part of the inputs."""
    wanted, got = (answers(name, one, part) for one in (path_of(name), file))
    ratio = path_of(name).stat().st_size / file.stat().st_size
    return Cell(ratio, noise_over_signal(wanted, got), DEPLOYED[name].same(wanted, got))


def other(name: str, tool: str) -> Cell | None:
    """What another tool does; None where it fails, or leaves the model as it is."""
    logging.disable(logging.WARNING)  # a line for each node
    source = path_of(name)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        try:
            OTHERS[tool](source, file)
            if file.stat().st_size >= LEAST * source.stat().st_size:
                return None
            return replace(measured(name, file), given=measured(name, file, "given").noise)
        except Exception as error:
            print(f"{name}: {tool}: {error}")
            return None


def ours(name: str, bound: float | None, data: bool) -> Cell:
    """What onnxopt does with a bound on the noise, or its default."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        contract = None if bound is None else Contract(error=bound)
        inputs, started = given(name, Path(folder)) if data else None, time.process_time()
        done = onnxopt.optimize(path_of(name), file, contract, inputs, effort=Effort.FAST)
        seconds = time.process_time() - started
        announced = done.check.found.error if done.check else None
        why = "; ".join(done.left_out.values())
        cell = measured(name, file)
        return replace(cell, announced=announced, seconds=seconds, memory=done.peak_memory or 0, why=why)


@dataclass(frozen=True, slots=True)
class Pair:
    """Another tool's file, and onnxopt's that is to have less noise."""

    tool: str
    theirs: Cell
    own: Cell

    @property
    def better(self) -> bool:
        """Whether onnxopt's is smaller at less noise."""
        return self.own.ratio > self.theirs.ratio and self.own.noise < self.theirs.noise


@dataclass(frozen=True, slots=True)
class Row:
    """One model through all tools."""

    name: str
    size: int
    pairs: tuple[Pair, ...]
    """Of the tools that make it smaller."""
    alone: Cell
    """Without data."""
    with_data: Cell


def row(name: str) -> Row:
    """Measures a model, or takes up what was measured before."""
    alone, with_data = (ONNXOPT.once(ours, name, None, data) for data in (False, True))
    found = ((tool, RUNTIME.once(other, name, tool)) for tool in OTHERS)
    pairs = tuple(_pair(name, tool, theirs, with_data) for tool, theirs in found if theirs is not None)
    return Row(name, path_of(name).stat().st_size, pairs, alone, with_data)


def _pair(name: str, tool: str, theirs: Cell, with_data: Cell) -> Pair:
    """The default, or a run with a bound on the noise where that is not smaller at less noise already."""
    pair = Pair(tool, theirs, with_data)
    if pair.better:
        return pair
    return replace(pair, own=ONNXOPT.once(ours, name, round(MARGIN * theirs.given, 4), True))


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [row(name) for name in DEPLOYED]


def render(rows: Sequence[Row]) -> str:
    """Ratio, noise and answers, by model."""
    lines = []
    for one in rows:
        model = DEPLOYED[one.name]
        lines.append([f"{one.name}: {model.what}", f"{one.size / 1e6:.1f} MB", f"{model.inputs}: {model.agreement}",
                      *_cell(one.with_data)])  # fmt: skip
    columns = ["model", "source", "measured on", "ratio", "noise", "answers that stay"]
    return markdown(columns, "lrlrrr", lines)


def render_beside(rows: Sequence[Row]) -> str:
    """The files of other tools, and onnxopt's beside each."""
    lines = [
        [one.name, pair.tool, *_cell(pair.theirs), *_cell(pair.own), "yes" if pair.better else "**no**"]
        for one in rows for pair in one.pairs
    ]  # fmt: skip
    columns = ["model", "other tool", "its ratio", "noise", "answers", "`onnxopt --data`", "noise", "answers", "better"]
    return markdown(columns, "llrrrrrrl", lines)


def _cell(cell: Cell) -> list[str]:
    return [f"{cell.ratio:.2f}x", f"{cell.noise:.4f}", f"{cell.same:.0f} %"]


def render_alone(rows: Sequence[Row]) -> str:
    """What was announced without data, and what became of it."""
    lines = []
    for one in rows:
        cell = one.alone
        factor = f"{cell.noise / cell.announced:.1f}" if cell.announced else ""
        lines.append(
            [one.name, f"{cell.ratio:.2f}x", "" if cell.announced is None else f"{cell.announced:.4f}",
             f"{cell.noise:.4f}", factor, f"{cell.same:.1f} % of {DEPLOYED[one.name].agreement}"]
        )  # fmt: skip
    columns = ["model", "ratio", "noise announced", "on real inputs", "times", "answers that stay"]
    return markdown(columns, "lrrrrr", lines)


def render_costs(rows: Sequence[Row]) -> str:
    """Time and memory of `optimize`."""
    lines = [
        [one.name, f"{one.size / 1e6:.1f}", *(f"{c.seconds:.0f}" for c in (one.alone, one.with_data)),
         *(f"{c.memory / 1e6:.0f}" for c in (one.alone, one.with_data)), one.with_data.why]
        for one in rows
    ]  # fmt: skip
    columns = ["model", "source MB", "CPU s without data", "with data", "peak MB without data", "with data", "left out"]
    return markdown(columns, "lrrrrrl", lines) + f"\n\nOn {machine()}, with other work beside it."


TABLES = (
    Table("transformers", "docs/transformers.md", 60, measure, render),
    Table("transformers-beside", "docs/transformers.md", 60, measure, render_beside),
    Table("transformers-alone", "docs/transformers.md", 60, measure, render_alone),
    Table("transformers-costs", "docs/transformers.md", 60, measure, render_costs),
)
