"""Every shared model compressed with the defaults, and measured on its data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import onnxopt
from common import realdata, runs
from common.kept import ONNXOPT
from common.pages import markdown
from onnxopt.spec.effort import Effort
from tables import CannotMeasureError, Scope, Table

NOTES = {
    "mobilenet_v2": "its last layer, a third of its weights, lies on an 8-bit grid in the source already",
    "mobilenet_v2_int8_tflite": "8-bit integers in the source already",
}


@dataclass(frozen=True, slots=True)
class Row:
    """What compression did to one model."""

    model: str
    bytes_before: int
    bytes_fp16: int
    """Of the source with every float32 weight in float16."""
    bytes_after: int
    identical: bool
    """The compressed model's outputs are, bit for bit, those of the plain model that `onnxopt.decompress` writes."""
    noise: float | None
    """Noise over signal of the outputs on synthetic inputs, what `--error` bounds; None where none could be run."""
    error: float
    """Relative error (root mean square) of the outputs on a few sensible inputs, the worst output's."""
    metric_before: float | None
    """Percent; None for a model without a task."""
    metric_after: float | None

    @property
    def ratio(self) -> float:
        """Bytes of the source over bytes of the compressed file."""
        return self.bytes_before / self.bytes_after

    @property
    def loss(self) -> float:
        """Points of the metric lost; 0 for a model without a task."""
        if self.metric_before is None or self.metric_after is None:
            return 0.0
        return self.metric_before - self.metric_after


def row(model: str, limit: int | None = None, effort: Effort = Effort.DEFAULT) -> Row:
    """Compresses one shared model with the defaults and measures it, on `limit` test images at most."""
    source = realdata.path_of(model)
    with tempfile.TemporaryDirectory() as folder:
        small, plain = Path(folder) / "small.onnx", Path(folder) / "plain.onnx"
        done = onnxopt.optimize(source, small, onnxopt.Contract(), effort=effort)
        if done.unchanged:
            plain = small
        else:
            onnxopt.decompress(small, plain)
        original, decompressed = realdata.plain_session(source), realdata.plain_session(plain)
        compressed = realdata.registered_session(small)
        size = small.stat().st_size
        inputs = realdata.sensible_inputs(model)
        wanted, got, unpacked = ([s.run(None, x) for x in inputs] for s in (original, compressed, decompressed))
        outputs = range(len(original.get_outputs()))
        identical = all(a[k].tobytes() == b[k].tobytes() for a, b in zip(got, unpacked, strict=True) for k in outputs)
        error = max(relative_error(np.stack([a[k] for a in wanted]), np.stack([b[k] for b in got])) for k in outputs)
        before = after = None
        if model in realdata.TASKS:
            before = runs.original(model, limit)
            after = realdata.evaluate(model, compressed, limit=limit).metric
    noise = done.check.found.difference if done.check else None
    return Row(model, done.bytes_before, done.bytes_fp16, size, identical, noise, error, before, after)


def relative_error(wanted: realdata.Array, got: realdata.Array) -> float:
    """Root mean square of the difference over that of `wanted`."""
    signal, noise = np.linalg.norm(wanted), np.linalg.norm(got.astype(np.float64) - wanted)
    return float(noise / signal) if signal else float(noise > 0)


def render(rows: Iterable[Row]) -> str:
    """The rows in Markdown."""
    lines: list[list[str]] = []
    notes: list[str] = []
    for row in rows:
        name = row.model
        if row.model in NOTES:
            notes.append(f"[{len(notes) + 1}] {row.model}: {NOTES[row.model]}.")
            name += f" [{len(notes)}]"
        task = realdata.TASKS.get(row.model)
        scores = ["", ""] if row.metric_before is None else [f"{row.metric_before:.2f}", f"{row.metric_after:.2f}"]
        data = task.data if task else f"no labels; outputs differ by {100 * row.error:.1f} %"
        sizes = [f"{row.bytes_before / 1e6:.2f}", f"{row.bytes_after / 1e6:.2f}"]
        ratios = [f"{row.ratio:.2f}x", f"{row.bytes_fp16 / row.bytes_after:.2f}x"]
        lines.append([name, data, *sizes, *ratios, *scores])
    columns = ["model", "data", "source MB", "compressed MB", "ratio", "against fp16", "before %", "after %"]
    return "\n".join([markdown(columns, "llrrrrrr", lines), *([""] if notes else []), *notes])


def measure(scope: Scope) -> list[Row]:
    """A row for each model. Raises CannotMeasureError where compressed and decompressed models differ."""
    rows = [ONNXOPT.once(row, model, scope.limit) for model in scope.models]
    if wrong := [one.model for one in rows if not one.identical]:
        raise CannotMeasureError(f"outputs differ from the decompressed model's: {', '.join(wrong)}")
    return rows


TABLES = (Table("models", "docs/models.md", 15, measure, render, realdata.SHARED),)
