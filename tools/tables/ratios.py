"""What onnxopt keeps of the metric at given ratios, with training images or without data; beside the control.

Nothing is tuned on test parts. Every run is a process of its own, so that its peak memory is, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from common.control import Control, as_good, control
from common.kept import ONNXOPT
from common.pages import markdown
from common.runs import Run, optimize, original, training_images
from onnxopt import Contract
from onnxopt.spec.effort import Effort
from tables import Scope, Table

IMAGES = 10_000
"""Of CIFAR-10 and MNIST; of photographs there are 300 and 400."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One run at a ratio."""

    model: str
    ratio: float
    """What is asked for."""
    allowed: float | None
    """Points that it may lose; None where there is no bound."""
    images: int | None = IMAGES
    """Training images, at most; None for no data."""
    effort: Effort = Effort.DEFAULT


BEST = Effort.BEST
ASKS = (
    Ask("resnet20", 11, 0.3, None),
    Ask("resnet32", 11.5, 0.3, None),
    Ask("resnet56", 13, 0.3, None),
    Ask("resnet20", 10, None),
    Ask("resnet32", 10, None),
    Ask("resnet32", 14, 0.1),
    Ask("resnet32", 14, 0.1, effort=BEST),
    Ask("resnet32", 20, 0.8),
    Ask("resnet32", 20, 0.8, effort=BEST),
    Ask("resnet56", 12, None),
    Ask("resnet56", 24, 0.4),
    Ask("resnet56", 24, 0.4, effort=BEST),
    Ask("lenet5", 48, 0.1),
    Ask("resnet50v2_imagenette", 10, None),
    Ask("resnet50v2_imagenette", 20, 0.5),
    Ask("squeezenet1.1", 7, None),
    Ask("squeezenet1.1", 10, 1.0),
    Ask("squeezenet1.1", 10, 1.0, effort=BEST),
    Ask("mobilenet_v2", 8, 1.0),
    Ask("mobilenet_v2", 8, 1.0, effort=BEST),
    Ask("mobilenet_v1_0.25", 7, 1.0),
    Ask("mobilenet_v1_0.25", 7, 1.0, effort=BEST),
    Ask("mobilefacenet", 9, 0.3),
    Ask("mobilefacenet", 9, 0.3, effort=BEST),
    Ask("mobilefacenet", 8, None, None),
)


def run(ask: Ask, limit: int | None = None) -> Run:
    """One run; kept."""
    return ONNXOPT.once(optimize, ask.model, Contract(target_ratio=ask.ratio), ask.images, limit, effort=ask.effort)


def measure_runs(scope: Scope) -> list[tuple[Ask, Run, float]]:
    """Every ask of the models, with the original's metric."""
    asks = [ask for ask in ASKS if ask.model in scope.models]
    return [(ask, run(ask, scope.limit), original(ask.model, scope.limit)) for ask in asks]


def measure_controls(scope: Scope) -> list[tuple[Ask, Run, Control, Control | None]]:
    """Every ask of the models, with the control at 8 bits, and at the fewest bits that are as good."""
    rows = []
    for ask, done, _ in measure_runs(scope):
        if ask.effort is not Effort.DEFAULT:
            continue
        eight, equal = control(ask.model, 8, scope.limit), as_good(ask.model, done.metric, scope.limit)
        rows.append((ask, done, eight, equal))
    return rows


def ratios_table(rows: Sequence[tuple[Ask, Run, float]]) -> str:
    """What is left of the metric."""
    lines = []
    for ask, done, before in rows:
        lost = round(before - done.metric, 4)
        kept = "" if ask.allowed is None else "yes" if lost <= ask.allowed and done.ratio >= ask.ratio else "**no**"
        allowed = "" if ask.allowed is None else f"{ask.allowed:.1f}"
        sizes = [f"{ask.ratio:g}x", f"{done.bytes_after:,}", f"{done.ratio:.2f}x"]
        scores = [f"{before:.2f}", f"{done.metric:.2f}", f"{lost:.2f}", allowed, kept]
        cost = [f"{done.cpu_seconds:.0f}", f"{done.peak_memory / 1e6:.0f}"]
        lines.append([ask.model, training_images(ask.model, ask.images), ask.effort, *sizes, *scores, *cost])
    columns = [
        "model",
        "training images",
        "effort",
        "asked",
        "bytes",
        "ratio",
        "before %",
        "after %",
        "lost",
        "may lose",
        "kept",
    ]
    return markdown([*columns, "CPU s", "peak MB"], "lllrrrrrrrrrr", lines)


def controls_table(rows: Sequence[tuple[Ask, Run, Control, Control | None]]) -> str:
    """How much smaller than the control."""
    lines = []
    for ask, done, eight, equal in rows:
        line = [ask.model, training_images(ask.model, ask.images), f"{done.ratio:.2f}x", f"{done.metric:.2f}"]
        line += [f"{eight.ratio:.2f}x", f"{eight.metric:.2f}", f"{eight.bytes_after / done.bytes_after:.2f}x"]
        if equal is None:
            line += ["", "", "", ""]
        else:
            line += [f"{equal.bits}", f"{equal.ratio:.2f}x", f"{equal.metric:.2f}"]
            line += [f"{equal.bytes_after / done.bytes_after:.2f}x"]
        lines.append(line)
    columns = ["model", "training images", "ratio", "after %", "8 bits", "%", "ours is smaller"]
    return markdown([*columns, "fewest bits as good", "ratio", "%", "ours is smaller"], "llrrrrrrrrr", lines)


MODELS = tuple(dict.fromkeys(ask.model for ask in ASKS))
TABLES = (
    Table("ratios", "docs/engine.md", 20, measure_runs, ratios_table, MODELS),
    Table("controls", "docs/engine.md", 25, measure_controls, controls_table, MODELS),
)
