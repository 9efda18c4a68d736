"""A sentence encoder, compressed on texts under contracts on its embeddings, and measured on other texts."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnxopt
from common import realdata
from common.kept import ONNXOPT
from common.packaged import ENCODER, other_sentences, packaged, sentences
from common.pages import markdown
from onnxopt import Contract
from onnxopt.data import Data, open_data
from onnxopt.metrics import open_metric
from onnxopt.search.scores import Scores
from tables import Scope, Table

GIVEN, OTHERS = 600, 1000
"""Sentences: to compress on, to measure on."""
METRICS = ("cosine", "retrieval")


@dataclass(frozen=True, slots=True)
class Setting:
    """How the file is made."""

    command: str
    """Options, as on the command line; empty for the runtime's quantizer."""
    contract: Contract | None
    """None for the runtime's quantizer."""
    texts: bool = True
    """Whether it is made on texts."""


SETTINGS = (
    Setting("", Contract(), texts=False),
    Setting("--data", Contract()),
    Setting("--data --metric cosine --max-drop 0.5", Contract(max_drop=0.5, metric="cosine")),
    Setting("--data --metric cosine --max-drop 0.1", Contract(max_drop=0.1, metric="cosine")),
    Setting("--data --metric retrieval --max-drop 5", Contract(max_drop=5, metric="retrieval")),
    Setting("`quantize_dynamic` of ONNX Runtime, int8 per channel", None),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One file."""

    ratio: float
    drops: tuple[tuple[float, float], ...]
    """The drop and its standard error, by metric: on other texts of the kind that was given, then on others."""


def row(setting: Setting) -> Row:
    """Makes one file and measures it."""
    source, count = packaged(ENCODER), GIVEN + OTHERS
    with tempfile.TemporaryDirectory() as folder:
        small, session = Path(folder) / "small.onnx", realdata.plain_session(source)
        every, other = sentences(count), other_sentences(OTHERS)
        parts = {"given.txt": every[:GIVEN], "like.txt": every[GIVEN:], "unlike.txt": other}
        given, like, unlike = (_texts(Path(folder) / name, part, session) for name, part in parts.items())
        if setting.contract is None:
            quantize_dynamic(source, small, per_channel=True, weight_type=QuantType.QInt8)
        else:
            onnxopt.optimize(source, small, setting.contract, given if setting.texts else None)
        after = realdata.registered_session(small)
        drops = (*_drops(session, after, like), *_drops(session, after, unlike))
        return Row(source.stat().st_size / small.stat().st_size, drops)


def _texts(file: Path, texts: list[str], session: onnxruntime.InferenceSession) -> Data:
    file.write_text("\n".join(texts), encoding="utf-8")
    return open_data(file, session, tokenizer=packaged("tokenizer"))


def _drops(
    before: onnxruntime.InferenceSession, after: onnxruntime.InferenceSession, data: Data
) -> list[tuple[float, float]]:
    """The drop of each metric, with its standard error."""
    pairs = {name: (Scores(open_metric(name)), Scores(open_metric(name))) for name in METRICS}
    for batch in data:
        wanted, got = before.run(None, batch.feeds), after.run(None, batch.feeds)
        for original, compressed in pairs.values():
            original.add(wanted, wanted, batch)
            compressed.add(got, wanted, batch)
    found = [original.drop_to(compressed, 1.0) for original, compressed in pairs.values()]
    return [(drop.drop, drop.spread) for drop in found]


def measure(scope: Scope) -> list[Row]:
    """A row for each setting."""
    return [ONNXOPT.once(row, setting) for setting in SETTINGS]


def render(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = []
    for setting, one in zip(SETTINGS, rows, strict=True):
        name = f"`{setting.command}`" if setting.command.startswith("-") else setting.command or "without data"
        lines.append([name, f"{one.ratio:.2f}x", *(f"{drop:.3g} +- {error:.1g}" for drop, error in one.drops)])
    columns = [f"{metric}, {of}" for of in ("NumPy", "Python") for metric in METRICS]
    return markdown(["options", "ratio", *columns], "lrrrrr", lines)


TABLES = (Table("texts", "docs/text.md", 30, measure, render),)
