"""Whole model files, nothing lost, beside zip and zstd; generated weights; floats of two bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common import pages, realdata, whole_files
from common.generated import TABLES as GENERATED
from common.kept import ONNXOPT
from common.pages import markdown
from common.whole_files import Halves, Whole
from tables import Scope, Table

WIDTH = 256
"""Of generated weights."""
MORE = ("resnet8_keras", "kws_dscnn", "silero_half", "gtcrn", "logreg_zipmap", "mobilenet_v1_0.5_int8_tflite")
"""Models of the shared folder besides `realdata.SHARED`."""
HALVES = ("resnet56", "resnet50v2_imagenette", "squeezenet1.1", "mobilenet_v2", "mobilefacenet", "dtln2_lstm")
GOAL = 0.95
"""The most that a file shall take of the better of the others."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything in the page."""

    files: dict[str, Whole]
    """By model, or by what is generated."""
    halves: dict[str, dict[str, Halves]]
    """By model, by element type."""


def measure(scope: Scope) -> Measured:
    """Every file in each way."""
    files = {model: ONNXOPT.once(whole_files.sizes, realdata.path_of(model)) for model in scope.models}
    if scope.models == TABLE.models:
        files |= {name: ONNXOPT.once(whole_files.generated_sizes, name, WIDTH) for name in GENERATED}
    paths = {model: realdata.path_of(model) for model in HALVES if model in scope.models}
    return Measured(
        files,
        {
            model: {dtype: ONNXOPT.once(whole_files.halves, path, dtype) for dtype in ("bfloat16", "float16")}
            for model, path in paths.items()
        },
    )


def render(found: Measured) -> str:
    """Both tables."""
    rows = [
        [name, f"{w.source:,}", f"{w.zip:,}", f"{w.zstd:,}", f"{w.lossless:,}", f"{w.share:.3f}", _speed(w.speed)]
        for name, w in found.files.items()
    ]
    columns = ["file", "bytes", "zip -9", "zstd -19", "--lossless", "/ the better of both", "MB/s"]
    missed = [name for name, w in found.files.items() if w.share > GOAL]
    parts = [f"**Bytes of a whole file; weights decoded by one core ({pages.machine()})**"]
    parts += [markdown(columns, "lrrrrrr", rows)]
    parts += [f"Above {GOAL}: {', '.join(missed) or 'none'}."]
    shares = [
        [model, *(f"{share:.4f}" for one in by.values() for share in (one.zstd, one.lossless))]
        for model, by in found.halves.items()
    ]
    parts += ["**Floats of two bytes: bytes left of one, weights of two or more dimensions**"]
    kinds = ["bfloat16, zstd -19", "bfloat16, lossless", "float16, zstd -19", "float16, lossless"]
    parts += [markdown(["model", *kinds], "lrrrr", shares)]
    return "\n\n".join(parts)


def _speed(value: float) -> str:
    return "" if math.isnan(value) else f"{value / 1e6:,.0f}"


TABLE = Table("lossless", "docs/lossless.md", 4, measure, render, (*realdata.SHARED, *MORE))
TABLES = (TABLE,)
