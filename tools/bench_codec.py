"""How small and how fast the codecs are, on the integers of the shared models.

    python tools/bench_codec.py                           # everything, minutes
    python tools/bench_codec.py resnet20 lenet5 --bits 4  # these
    python tools/bench_codec.py --write docs/codecs.md    # everything, into the document's tables

Sizes: every weight of two or more dimensions is scaled so that each output's largest magnitude becomes
2^(b - 1) - 1, rounded to integers, cut into chunks as the container cuts them, and coded. They are compared with the
*order-0 entropy*, n log2 n - sum c log2 c bits for n integers of which c are alike, tensor by tensor, which no coder
that takes them one by one with one table can beat even where that table costs nothing.

Speeds: one thread, every codec and instruction set taking turns, after one turn that does not count. Bytes are those
of the float32 tensor that the integers become; the time includes its allocation.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import codec_speed
import generated
import numpy as np
import numpy.typing as npt
import onnx
import realdata
import table_models
import zstandard
from onnx import numpy_helper
from rich.console import Console
from rich.table import Table

import onnxopt
from onnxopt import native
from onnxopt.build import container
from onnxopt.graph import Graph, normalise

Integers = npt.NDArray[np.int32]
START = "<!-- table:codecs -->"

BITS = tuple(range(2, 9))
PRUNED_BITS = (4, 5, 8)
ZEROS = (0.8, 0.9)
LARGE = 100_000
"""Weights from which on a tensor's `rans` is held against the entropy by itself."""

RANS_GOAL = 1.005
"""The most that `rans` shall take of a large tensor's order-0 entropy, tables included."""


def goal(model: str) -> float:
    """The most that the writer's choice shall take of a model's order-0 entropy, tables included."""
    return 0.98 if model.startswith("resnet") else 1.005


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """How weights become integers."""

    zeros: float
    """Share of each tensor's weights, the smallest, that is set to zero; the others are kept from becoming zero."""
    bits: int

    def __str__(self) -> str:
        return f"{self.bits} bits" + (f", {self.zeros:.0%} 0" if self.zeros else "")


@dataclass(frozen=True, slots=True)
class Size:
    """One model's, or one tensor's, bytes under one setting."""

    weights: int
    entropy: float
    """Order-0, of the counts seen."""
    corrected: float
    """With (K - 1) / 2 nats more for each tensor's K distinct integers (G. Miller, 1955): counts of few samples look
    more predictable than what they are drawn from, by about so much."""
    chosen: int
    """By the writer, of all codecs, tables included."""
    rans: float
    """Bytes of `rans`, tables included, over order-0, of the worst tensor above `LARGE`; 0 where there is none."""

    @property
    def ratio(self) -> float:
        """The writer's choice over order-0."""
        return self.chosen / self.entropy

    @property
    def corrected_ratio(self) -> float:
        """The writer's choice over order-0 as corrected."""
        return self.chosen / self.corrected

    @property
    def bits(self) -> float:
        """Of the writer's choice, for each weight."""
        return 8 * self.chosen / self.weights


# ---- integers ------------------------------------------------------------------------------------------------------


def weights(path: Path) -> Iterator[tuple[realdata.Array, int]]:
    """Every weight of two or more dimensions in a model file, and the axis of its outputs.

    8-bit integers of a model that is quantized already are taken as they are, their outputs along axis 0.
    """
    model = onnx.load(path)
    normalise(model)
    graph = Graph(model)
    for site in graph.sites():
        if site.axis is not None and len(site.shape) > 1:
            yield graph.values(site.path), site.axis
    for tensor in model.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(tensor.dims) > 1:
            yield np.asarray(numpy_helper.to_array(tensor)), 0


def integers(weight: realdata.Array, axis: int, setting: Setting) -> Integers:
    """The matrix that the container would hold for a weight whose outputs lie along `axis`."""
    values = weight.astype(np.float64)
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(others, keepdims=True)
    q = np.rint(values / np.where(largest, largest, 1) * (2 ** (setting.bits - 1) - 1))
    if setting.zeros:
        magnitude = np.abs(values)
        kept = magnitude > np.quantile(magnitude, setting.zeros)
        q = np.where(kept, np.sign(values) * np.maximum(np.abs(q), 1), 0)
    return np.ascontiguousarray(q.reshape(container.matrix_view(values.shape, axis)), np.int32)


def chunks(q: Integers) -> list[Integers]:
    """Cut as the container's writer does it."""
    rows = max(1, container.CHUNK // q.shape[1])
    return [q[at : at + rows] for at in range(0, len(q), rows)]


# ---- sizes ---------------------------------------------------------------------------------------------------------


def entropy(q: Integers) -> tuple[float, int]:
    """Order-0 bytes of all integers together, and the number of distinct ones."""
    counts = np.bincount((q - q.min()).ravel())
    counts = counts[counts > 0]
    return float(q.size * np.log2(q.size) - (counts * np.log2(counts)).sum()) / 8, len(counts)


def tensor_size(weight: realdata.Array, axis: int, setting: Setting) -> Size:
    """One tensor's bytes."""
    q = integers(weight, axis, setting)
    order0, distinct = entropy(q)
    first, *rest = chunks(q)
    codec, data = native.encode(first)
    chosen = len(data) + sum(len(native.encode(part, codec)[1]) for part in rest)
    rans = 0.0
    if q.size > LARGE:
        size = chosen if codec == "rans" else sum(len(native.encode(part, "rans")[1]) for part in chunks(q))
        rans = size / order0
    return Size(q.size, order0, order0 + (distinct - 1) / 2 / np.log(2) / 8, chosen, rans)


def total(sizes: Sequence[Size]) -> Size:
    """Of a model, from its tensors'."""
    return Size(
        sum(s.weights for s in sizes),
        sum(s.entropy for s in sizes),
        sum(s.corrected for s in sizes),
        sum(s.chosen for s in sizes),
        max(s.rans for s in sizes),
    )


def model_sizes(path: Path, settings: Sequence[Setting]) -> dict[Setting, Size]:
    """A model's bytes under each setting, on all cores."""
    found = list(weights(path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {s: [pool.submit(tensor_size, weight, axis, s) for weight, axis in found] for s in settings}
        return {s: total([job.result() for job in jobs[s]]) for s in settings}


@dataclass(frozen=True, slots=True)
class Whole:
    """A model file's bytes, losslessly compressed."""

    source: int
    zip: int
    """`zip -9`."""
    zstd: int
    """`zstd -19`."""
    lossless: int
    """`onnxopt optimize --lossless`."""


def whole_file(path: Path) -> Whole:
    """Compresses one model file in each way."""
    content, archive = path.read_bytes(), io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        file.writestr(path.name, content)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / path.name
        onnxopt.optimize(path, output, lossless=True)
        size = output.stat().st_size
    zstd = zstandard.ZstdCompressor(level=19).compress(content)
    return Whole(len(content), archive.tell(), len(zstd), size)


# ---- speeds --------------------------------------------------------------------------------------------------------


def speed_inputs() -> dict[str, Integers]:
    """What speeds are measured on: one chunk each."""
    normal = np.rint(np.random.default_rng(0).normal(0, 16 / np.sqrt(2 * np.pi * np.e), (1024, 1024))).astype(np.int32)
    found = {"normal, 4 bits of entropy": normal}
    source = realdata.MODELS / "resnet50v2_imagenette.onnx"
    if source.is_file():
        weight, axis = max(weights(source), key=lambda found: found[0].size)
        for setting in (Setting(0, 4), Setting(0, 8), Setting(0.9, 5)):
            found[f"ResNet-50's largest, {setting}"] = chunks(integers(weight, axis, setting))[0]
    return found


# ---- output --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: the first column names the row, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """For a document."""
        table = generated.markdown(self.columns, "l" + "r" * (len(self.columns) - 1), self.rows)
        return f"**{self.title}**\n\n{table}"

    def rich(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left")
        for index, column in enumerate(self.columns):
            table.add_column(column, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        return table


FIGURES: dict[str, Callable[[Size], str]] = {
    "The writer's choice, all weights of a model, over their order-0 entropy": lambda s: f"{s.ratio:.3f}",
    "The same, over the entropy with Miller's correction": lambda s: f"{s.corrected_ratio:.3f}",
    f"`rans` over order-0, the worst tensor of more than {LARGE:,} weights": lambda s: (
        f"{s.rans:.4f}" if s.rans else ""
    ),
    "Bits a weight, the writer's choice": lambda s: f"{s.bits:.2f}",
}


def model_sheet(model: str, sizes: dict[Setting, Size]) -> Sheet:
    """One model, a row a setting."""
    columns = ["setting", "weights", "order-0 bytes", "corrected", "chosen", "/ order-0", "/ corrected"]
    rows = []
    for setting, s in sizes.items():
        figures = [f"{s.weights:,}", f"{s.entropy:,.0f}", f"{s.corrected:,.0f}", f"{s.chosen:,}", f"{s.ratio:.4f}"]
        rows.append([str(setting), *figures, f"{s.corrected_ratio:.4f}", *(f(s) for f in list(FIGURES.values())[2:])])
    return Sheet(model, [*columns, "rans", "bits"], rows)


def size_sheets(sizes: dict[str, dict[Setting, Size]]) -> Iterator[Sheet]:
    """One figure each, a row a model, a column a setting."""
    settings = list(next(iter(sizes.values())))
    for title, figure in FIGURES.items():
        rows = [[model, *(figure(by[s]) for s in settings)] for model, by in sizes.items()]
        yield Sheet(title, ["model", *map(str, settings)], [row for row in rows if any(row[1:])])


def missed_sheet(sizes: dict[str, dict[Setting, Size]]) -> Sheet:
    """Every figure that is above its goal, as it is and with the correction."""
    rows = []
    for model, by in sizes.items():
        for setting, s in by.items():
            where = [f"{model}, {setting}"]
            if s.ratio > goal(model):
                rows.append([*where, "choice", f"{s.ratio:.4f}", f"{goal(model)}", f"{s.corrected_ratio:.4f}"])
            if s.rans > RANS_GOAL:
                rows.append([*where, "rans", f"{s.rans:.4f}", f"{RANS_GOAL}", ""])
    return Sheet("Goals missed", ["where", "what", "over order-0", "goal", "over corrected"], rows)


def speed_sheet(measured: dict[str, dict[str, codec_speed.Speed]], repeats: int) -> Sheet:
    """A row a task."""
    tasks = next(iter(measured.values()))
    rows = [
        [task, *(f"{by[task].best / 1e6:,.0f} ({by[task].median / 1e6:,.0f})" for by in measured.values())]
        for task in tasks
    ]
    title = f"MB of float32 a second on one core, best of {repeats} (median): {codec_speed.machine()}"
    return Sheet(title, ["", *measured], rows)


def whole_sheet(files: dict[str, Whole]) -> Sheet:
    """A row a model."""
    rows = [
        [m, f"{w.source:,}", f"{w.zip:,}", f"{w.zstd:,}", f"{w.lossless:,}", f"{w.lossless / min(w.zip, w.zstd):.3f}"]
        for m, w in files.items()
    ]
    columns = ["model", "source", "zip -9", "zstd -19", "--lossless", "/ the better of both"]
    return Sheet("Bytes of a whole file, nothing lost", columns, rows)


def as_json(value: Any) -> Any:
    """What `json` can write of our results."""
    if isinstance(value, dict):
        return {str(k): as_json(v) for k, v in value.items()}
    return asdict(value)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Sizes and speeds of the codecs on the shared models.")
    parser.add_argument("models", nargs="*", metavar="model", help="these models (default: all)")
    parser.add_argument("--bits", type=int, nargs="+", choices=BITS, default=BITS, help="these widths")
    parser.add_argument("--quick", action="store_true", help="neither sparse settings nor lossless files")
    parser.add_argument("--repeats", type=int, default=21, help="of each speed")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into this document")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(table_models.MODELS)
    if unknown:
        parser.error(f"no such model: {', '.join(sorted(unknown))}; there are {', '.join(table_models.MODELS)}")
    if arguments.write and (arguments.models or arguments.quick or arguments.bits != BITS):
        parser.error("--write wants everything measured: leave the other options away")
    if not realdata.MODELS.is_dir():
        print(f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder", file=sys.stderr)
        return 2
    settings = [Setting(0, bits) for bits in arguments.bits]
    if not arguments.quick:
        settings += [Setting(z, bits) for z in ZEROS for bits in PRUNED_BITS if bits in arguments.bits]
    console = Console(width=None if sys.stdout.isatty() else 200)
    sizes, files = {}, {}
    for model in arguments.models or table_models.MODELS:
        path = realdata.MODELS / f"{model}.onnx"
        sizes[model] = model_sizes(path, settings)
        if not arguments.quick:
            files[model] = whole_file(path)
        if not arguments.json:
            console.print(model_sheet(model, sizes[model]).rich())
    measured = {name: codec_speed.speeds(q, arguments.repeats) for name, q in speed_inputs().items()}
    if arguments.json:
        found = {"machine": codec_speed.machine(), "sizes": sizes, "files": files, "speeds": measured}
        print(json.dumps({k: v if isinstance(v, str) else as_json(v) for k, v in found.items()}, indent=1))
        return 0
    sheets = [missed_sheet(sizes), *([whole_sheet(files)] if files else []), speed_sheet(measured, arguments.repeats)]
    for sheet in sheets:
        console.print(sheet.rich())
    if arguments.write:
        text = "\n\n".join(sheet.markdown() for sheet in [*size_sheets(sizes), *sheets])
        generated.rewrite(arguments.write, text, START)
    return 0


if __name__ == "__main__":
    sys.exit(main())
