"""How long a compressed model takes to load, against its plain file, by how it was coded.

Every load is a fresh process. The forms take turns, so that other work on the machine slows all of them alike.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnxruntime

import onnxopt
from common import realdata
from common.kept import ONNXOPT, fresh
from common.pages import machine, markdown
from tables import Scope, Table
from tables.peaks import FORMS, in_turns

MODEL = "resnet50v2_imagenette"
DECODE = ("balanced", "fastest")
"""What files are coded for."""
_TURNS, _LEVEL = 9, "all"


@dataclass(frozen=True, slots=True)
class Row:
    """One way to code the weights."""

    decode: str
    size: int
    """Bytes of the file."""
    plain: float
    """Milliseconds."""
    ratios: dict[str, float]
    """Time over the plain file's, by form: medians of ratios within a turn."""


def write(decode: str, file: Path) -> None:
    """Compresses the model."""
    onnxopt.optimize(realdata.path_of(MODEL), file, effort="fast", decode=decode)


def measured(decode: str) -> Row:
    """All turns."""
    with tempfile.TemporaryDirectory() as folder:
        compressed, plain = Path(folder) / "compressed.onnx", realdata.path_of(MODEL)
        fresh(write, decode, compressed)
        turns = in_turns(plain, compressed, "", _LEVEL, _TURNS)
        ratios = {form: median(turn[form]["s"] / turn[to]["s"] for turn in turns) for form, to in FORMS.items()}
        return Row(decode, compressed.stat().st_size, 1000 * median(turn["plain"]["s"] for turn in turns), ratios)


def measure(scope: Scope) -> list[Row]:
    """Each way."""
    return [ONNXOPT.once(measured, decode) for decode in DECODE]


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        [
            f"`--decode {row.decode}`",
            f"{row.size:,}",
            f"{row.plain:.0f}",
            *(f"{row.ratios[form]:.2f}x" for form in FORMS),
        ]
        for row in rows
    ]
    heads = ["coded for", "bytes", "plain, ms", "registered", "`load`", "C"]
    found = markdown(heads, "lrrrrr", lines)
    return f"{found}\n\nMedians of {_TURNS} turns, ONNX Runtime {onnxruntime.__version__}, {machine()}."


TABLES = (Table("load-times", "docs/loader.md", 3, measure, render),)
