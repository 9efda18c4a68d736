"""Compresses every shared model, measures it on its data, and rewrites the table in README.md.

    python tools/table_models.py               # minutes: everything is measured anew
    python tools/table_models.py --only resnet20 lenet5 --print

`measure` is what the real-data tests call too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import realdata
from generated import markdown, rewrite

import onnxopt

README = Path(__file__).resolve().parents[1] / "README.md"
START = "<!-- table:models -->"

MODELS = (
    "resnet20",
    "resnet32",
    "resnet56",
    "resnet56_dynamo",
    "lenet5",
    "resnet50v2_imagenette",
    "mobilefacenet",
    "squeezenet1.0",
    "squeezenet1.1",
    "mobilenet_v1_0.25",
    "mobilenet_v2",
    "mnist_cntk",
    "mobilenet_v2_int8_tflite",
    "silero_vad",
    "super_resolution",
    "ppocr_det",
    "magika",
    "dtln2_lstm",
)
"""Those with a task first, in the order of the table."""

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
    """Noise over signal of the outputs on made-up inputs, what `--error` bounds; None where none could be run."""
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


def measure(model: str, folder: Path, limit: int | None = None) -> Row:
    """Compresses one shared model with the defaults into `folder` and measures it, on `limit` images at most."""
    source, small = realdata.MODELS / f"{model}.onnx", folder / f"{model}.onnx"
    done = onnxopt.optimize(source, small, onnxopt.Contract())
    plain = small
    if not done.unchanged:
        plain = folder / f"{model}.plain.onnx"
        onnxopt.decompress(small, plain)
    original, compressed = realdata.plain_session(source), realdata.registered_session(small)
    decompressed = realdata.plain_session(plain)
    inputs = realdata.sensible_inputs(model)
    wanted, got, unpacked = ([s.run(None, feeds) for feeds in inputs] for s in (original, compressed, decompressed))
    outputs = range(len(original.get_outputs()))
    identical = all(a[k].tobytes() == b[k].tobytes() for a, b in zip(got, unpacked, strict=True) for k in outputs)
    error = max(relative_error(np.stack([a[k] for a in wanted]), np.stack([b[k] for b in got])) for k in outputs)
    before = after = None
    if model in realdata.TASKS:
        before, after = (realdata.evaluate(model, s, limit=limit).metric for s in (original, compressed))
    return Row(
        model,
        done.bytes_before,
        done.bytes_fp16,
        small.stat().st_size,
        identical,
        done.check.found.error if done.check else None,
        error,
        before,
        after,
    )


def relative_error(wanted: realdata.Array, got: realdata.Array) -> float:
    """Root mean square of the difference over that of `wanted`."""
    signal, noise = np.linalg.norm(wanted), np.linalg.norm(got.astype(np.float64) - wanted)
    return float(noise / signal) if signal else float(noise > 0)


def table(rows: Iterable[Row]) -> str:
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


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the shared models and rewrites README.md's table.")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=MODELS, help="these models")
    parser.add_argument("--limit", type=int, help="so many images of each (for trying out)")
    parser.add_argument("--print", action="store_true", help="print the table, leave README.md alone")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.only:
            row = measure(model, Path(folder), arguments.limit)
            rows.append(row)
            print(f"{model}: {row.ratio:.2f}x, loss {row.loss:+.2f}, output error {row.error:.4f}, "
                  f"{'bit-identical' if row.identical else 'NOT IDENTICAL'}", file=sys.stderr)  # fmt: skip
    if not all(row.identical for row in rows):
        print("outputs differ from the decompressed model's: nothing written", file=sys.stderr)
        return 1
    if arguments.print:
        print(table(rows))
    else:
        rewrite(README, table(rows), START)
    return 0


if __name__ == "__main__":
    sys.exit(main())
