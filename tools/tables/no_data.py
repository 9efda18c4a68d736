"""What the default without data does on real inputs: noise, and decisions, points or cosines.

The settings of synthetic inputs were chosen on half of the models, and confirmed on the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession

import onnxopt
from common import realdata, speech
from common.kept import ONNXOPT
from common.packaged import ENCODER, encoded, packaged, sentences
from common.pages import markdown
from tables import Scope, Table

CHOSEN_ON = ("kws_dscnn", "dtln2_lstm", "resnet8_keras", "resnet20", "lenet5", "squeezenet1.1")
CONFIRMED_ON = ("silero_half", "gtcrn", "silero_vad", "magika", "resnet56", "mobilenet_v1_0.25", ENCODER)
SENTENCES = 300


@dataclass(frozen=True, slots=True)
class Row:
    """One model, compressed by the default without data."""

    model: str
    ratio: float
    synthetic: str
    """What it was compressed on."""
    announced: float | None
    """Noise over signal on these inputs."""
    inputs: str
    """What it was measured on."""
    noise: float
    """Noise over signal of the first output there."""
    outcome: str
    """What became of decisions, of the metric or of vectors."""


def row(model: str, limit: int | None = None) -> Row:
    """Compresses one model and measures it, on `limit` test images at most."""
    source = packaged(model) if model == ENCODER else realdata.path_of(model)
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        done = onnxopt.optimize(source, small)
        before, after = realdata.plain_session(source), realdata.registered_session(small)
        measure = _task if model in realdata.TASKS else _feeds
        inputs, noise, outcome = measure(model, before, after, limit)
    announced = done.check.found.error if done.check else None
    return Row(model, done.bytes_before / done.bytes_after, done.calibrated, announced, inputs, noise, outcome)


def _task(model: str, before: InferenceSession, after: InferenceSession, limit: int | None) -> tuple[str, float, str]:
    """A model of images with labels."""
    wanted, got = (realdata.evaluate(model, session, limit=limit) for session in (before, after))
    lost = f"{wanted.metric:.2f} -> {got.metric:.2f} %, {wanted.metric - got.metric:.2f} points lost"
    return realdata.TASKS[model].data, noise_over_signal([wanted.outputs], [got.outputs]), lost


def _feeds(model: str, before: InferenceSession, after: InferenceSession, limit: int | None) -> tuple[str, float, str]:
    """Any other model, on feeds that are the same for both."""
    what, feeds, output = _inputs(model, before)
    wanted, got = ([session.run(None, feed)[output] for feed in feeds[:limit]] for session in (before, after))
    outcome = OUTCOMES[model](wanted, got) if model in OUTCOMES else ""
    return what, noise_over_signal(wanted, got), outcome


def _inputs(model: str, session: InferenceSession) -> tuple[str, list[dict[str, Any]], int]:
    """What the inputs are, the inputs, and the output that counts."""
    if model == ENCODER:
        feeds = list(encoded(sentences(SENTENCES)))
        return f"{len(feeds)} sentences", feeds, [one.name for one in session.get_outputs()].index("461")
    if model in speech.FEEDS:
        feeds = speech.feeds(model)
        return f"speech, {len(feeds)} frames", feeds, 0
    feeds = realdata.sensible_inputs(model)
    return {"magika": "16 source files"}.get(model, "a hummed vowel, 8 frames"), feeds, 0


def noise_over_signal(wanted: list[realdata.Array], got: list[realdata.Array]) -> float:
    """Root of the summed squared differences over that of the original's outputs."""
    noise = sum(float(np.square(b.astype(np.float64) - a).sum()) for a, b in zip(wanted, got, strict=True))
    return float(np.sqrt(noise / sum(float(np.square(a, dtype=np.float64).sum()) for a in wanted)))


def _decisions(wanted: list[realdata.Array], got: list[realdata.Array]) -> str:
    a, b = (np.concatenate([one.ravel() for one in outputs]) > 0.5 for outputs in (wanted, got))
    return f"{100 * np.mean(a != b):.1f} % of decisions differ"


def _classes(wanted: list[realdata.Array], got: list[realdata.Array]) -> str:
    a, b = (np.concatenate([one.argmax(-1).ravel() for one in outputs]) for outputs in (wanted, got))
    return f"{100 * np.mean(a != b):.1f} % of classes differ"


def _cosine(wanted: list[realdata.Array], got: list[realdata.Array]) -> str:
    a, b = (np.concatenate(outputs).astype(np.float64) for outputs in (wanted, got))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return f"cosine {cosine.mean():.4f}, {cosine.min():.4f} at least"


OUTCOMES: dict[str, Callable[[list[realdata.Array], list[realdata.Array]], str]] = {
    "silero_half": _decisions,
    "silero_vad": _decisions,
    "kws_dscnn": _classes,
    "magika": _classes,
    ENCODER: _cosine,
}


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [ONNXOPT.once(row, model, scope.limit) for model in (*scope.models, *((ENCODER,) if whole(scope) else ()))]


def whole(scope: Scope) -> bool:
    """Whether all models are wanted, and so the one of a package too."""
    return set(MODELS) <= set(scope.models)


def render(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [
        [
            one.model, "chosen on" if one.model in CHOSEN_ON else "confirmed on", f"{one.ratio:.2f}x", one.synthetic,
            "" if one.announced is None else f"{one.announced:.3f}", one.inputs, f"{one.noise:.3f}", one.outcome,
        ]
        for one in rows
    ]  # fmt: skip
    columns = ["model", "settings", "ratio", "compressed on", "noise there", "real inputs", "noise here", "outcome"]
    return markdown(columns, "llrlrlrl", lines)


MODELS = tuple(model for model in (*CHOSEN_ON, *CONFIRMED_ON) if model != ENCODER)
TABLES = (Table("no-data", "docs/no-data.md", 15, measure, render, MODELS),)
