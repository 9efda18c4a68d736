"""What fine-tuning without labels buys: the accuracy of files of a given size.

The size is the contract, so nothing is tuned on test images. `python tools tuning --only lenet5` measures one model's
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.pages import machine, markdown
from common.runs import Run, original
from common.tuned import TUNING, run
from tables import Scope, Table


@dataclass(frozen=True, slots=True)
class Ask:
    """One run."""

    model: str
    ratio: float
    """What is asked for."""
    allowed: float | None
    """Points that it may lose; None for as many as the untuned file loses."""
    tune: str
    augment: str


ASKS = (
    Ask("lenet_300_100", 25, 0.0, "20epochs", "noise"),
    Ask("lenet_300_100", 42, 0.15, "20epochs", "noise"),
    Ask("lenet_300_100", 50, 0.08, "20epochs", "noise"),
    Ask("lenet_300_100", 80, 0.2, "20epochs", "noise"),
    Ask("lenet_300_100", 130, 0.2, "20epochs", "noise"),
    Ask("lenet5", 150, 0.1, "20epochs", "noise"),
    Ask("lenet5", 250, 0.5, "20epochs", "noise"),
    Ask("resnet20", 14, 0.3, "8epochs", "flip,crop,blend"),
    Ask("resnet32", 20, 0.3, "8epochs", "flip,crop,blend"),
    Ask("resnet32", 28, 1.0, "14epochs", "flip,crop,blend"),
    Ask("resnet56", 25, 0.3, "14epochs", "flip,crop,blend"),
    Ask("squeezenet1.1", 7, None, "10epochs", "flip,crop,blend"),
    Ask("squeezenet1.1", 10, None, "10epochs", "flip,crop,blend"),
    Ask("mobilenet_v1_0.25", 5, None, "10epochs", "flip,crop,blend"),
    Ask("mobilenet_v1_0.25", 7, None, "10epochs", "flip,crop,blend"),
    Ask("resnet50v2_imagenette", 25, 0.5, "4epochs", "flip,crop,blend"),
)

Row = tuple[Ask, Run, Run, float]
"""An ask, its files untuned and tuned, and the original's metric."""


def measure(scope: Scope) -> list[Row]:
    """Every ask of the models."""
    return [
        (
            ask,
            TUNING.once(run, ask.model, ask.ratio, "", "", scope.limit),
            TUNING.once(run, ask.model, ask.ratio, ask.tune, ask.augment, scope.limit),
            original(ask.model, scope.limit),
        )
        for ask in ASKS
        if ask.model in scope.models
    ]


def render(rows: Sequence[Row]) -> str:
    """One row an ask."""
    lines = []
    for ask, untuned, tuned, before in rows:
        lost, lost_untuned = (round(before - one.metric, 4) for one in (tuned, untuned))
        allowed = lost_untuned if ask.allowed is None else ask.allowed
        kept = "yes" if lost <= allowed and tuned.ratio >= ask.ratio else "**no**"
        sizes = [f"{ask.ratio:g}x", f"{tuned.bytes_after:,}", f"{tuned.ratio:.1f}x"]
        may_lose = f"{allowed:.2f}, as untuned" if ask.allowed is None else f"{allowed:g}"
        scores = [f"{metric:.2f}" for metric in (before, untuned.metric, tuned.metric, lost)]
        lines.append([ask.model, *sizes, *scores, may_lose, kept, training(ask.tune, ask.augment), *spent(tuned)])
    columns = ["model", "asked", "bytes", "ratio", "before %", "untuned %", "tuned %", "lost", "may lose", "kept"]
    return markdown([*columns, "passes", *SPENT], "lrrrrrrrrrlrrr", lines) + f"\n\nOn {machine()}."


def training(tune: str, augment: str) -> str:
    """Passes, and what is done to images."""
    return f"{tune.removesuffix('epochs')}, {augment}"


SPENT = ("s", "CPU s", "peak MB")


def spent(one: Run) -> list[str]:
    """What a run took, as `SPENT` names it."""
    return [f"{number:.0f}" for number in (one.seconds, one.cpu_seconds, one.peak_memory / 1e6)]


TABLES = (Table("tuning", "docs/tuning.md", 5, measure, render, tuple(dict.fromkeys(ask.model for ask in ASKS))),)
