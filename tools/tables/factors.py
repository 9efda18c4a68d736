"""Kim et al.'s whole scheme: a network factored by `tucker-vbmf`, its accuracy untuned, after one pass and after ten.

The same with weakened ranks, which go only a part of the way from full ones to those of variational Bayes. All training
images train, without labels. Accuracy is that of the whole test part, on the finished file; nothing is chosen on it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

import onnxopt
from common import realdata
from common.pages import machine, markdown
from common.runs import original
from common.tuned import TUNING, training_images
from onnxopt.spec.recipes import Recipe
from tables import Scope, Table
from tables.ranks import size

PASSES = (0, 1, 10)
"""Over the training images."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One network, factored in one way."""

    model: str
    allowed: float | None
    """Points that it may lose after the most passes; None where nothing is promised."""
    vbmf: float = 1.0
    """How far ranks go towards those of variational Bayes."""


ASKS = (
    Ask("resnet56", 0.5),
    Ask("resnet56", 0.5, 0.5),
    Ask("resnet50v2_imagenette", 0.5),
    Ask("resnet50v2_imagenette", 0.5, 0.5),
    Ask("squeezenet1.0", None),
    Ask("squeezenet1.0", None, 0.5),
)
AUGMENT = "flip,crop,blend"


@dataclass(frozen=True, slots=True)
class Factored:
    """A factored network, as it is after some passes."""

    images: int
    """That trained."""
    weights: float
    """M: how many times fewer weights and biases it has."""
    macs: float
    """E: how many times fewer multiply-accumulates one image takes."""
    ratio: float
    """How many times smaller the file is."""
    metric: float
    """Percent, on the test part."""
    cpu_seconds: float
    """Of compression, of all threads."""
    peak_memory: int
    """Bytes."""


def weakened(vbmf: float) -> Recipe:
    """The recipe with such ranks."""
    kim = Recipe.open("tucker-vbmf")
    return replace(kim, rules=tuple({**rule, "step": f"{rule['step']}{{vbmf={vbmf}}}"} for rule in kim.rules))


def run(model: str, vbmf: float, passes: int, limit: int | None) -> Factored:
    """Factors a network and trains it. Then evaluates it."""
    source, started = realdata.path_of(model), time.process_time()
    with tempfile.TemporaryDirectory() as folder, training_images(model) as data:
        small, count = Path(folder) / "small.onnx", len(np.load(data, mmap_mode="r"))
        tune, augment = (f"{passes}epochs", AUGMENT) if passes else (None, ())
        done = onnxopt.optimize(source, small, data=data, recipe=weakened(vbmf), tune=tune, augment=augment)
        seconds = time.process_time() - started
        before, after = size(onnx.load(source)), size(onnxopt.decompress(small))
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
    return Factored(count, before[0] / after[0], before[1] / after[1], done.bytes_before / done.bytes_after, metric,
                    seconds, done.peak_memory or 0)  # fmt: skip


Row = tuple[Ask, list[Factored], float]
"""What is asked for, the network after each of `PASSES`, and the original's metric."""


def measure(scope: Scope) -> list[Row]:
    """Every network after every number of passes."""
    return [
        (
            ask,
            [TUNING.once(run, ask.model, ask.vbmf, passes, scope.limit) for passes in PASSES],
            original(ask.model, scope.limit),
        )
        for ask in ASKS
        if ask.model in scope.models
    ]


def render(rows: Sequence[Row]) -> str:
    """One row a network."""
    lines = []
    for ask, found, before in rows:
        last, allowed = found[-1], ask.allowed
        lost = round(before - last.metric, 4)
        kept = ["", ""] if allowed is None else [f"{allowed:g}", "yes" if lost <= allowed else "**no**"]
        numbers = [f"{last.images:,}", f"{last.weights:.2f}", f"{last.macs:.2f}", f"{last.ratio:.2f}x"]
        scores = [f"{metric:.2f}" for metric in (before, *(one.metric for one in found), lost)]
        spent = [f"{last.cpu_seconds:.0f}", f"{last.peak_memory / 1e6:.0f}"]
        lines.append([ask.model, f"{ask.vbmf:g}", *numbers, *scores, *kept, *spent])
    after = ["untuned %" if not passes else f"after {passes} %" for passes in PASSES]
    columns = [
        "model",
        "way to VBMF",
        "images",
        "M",
        "E",
        "ratio",
        "before %",
        *after,
        "lost",
        "may lose",
        "kept",
        "CPU s",
        "peak MB",
    ]
    return markdown(columns, "lrrrrrrrrrrrlrr", lines) + f"\n\nOn {machine()}."


TABLES = (
    Table("tuning-factors", "docs/tuning.md", 60, measure, render, tuple(dict.fromkeys(ask.model for ask in ASKS))),
)
