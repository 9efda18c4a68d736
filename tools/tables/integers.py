"""`onnxopt optimize --for speed` against ONNX Runtime's own static quantization: files, times and claims."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnxruntime

from common.int8_files import File, Row, measured
from common.pages import machine, markdown
from common.static_int8 import METHODS
from onnxopt.measure.benchmark import SpeedRatio
from tables import Scope, Table

MODELS = (
    "resnet20",
    "resnet56",
    "resnet50v2_imagenette",
    "squeezenet1.1",
    "mobilenet_v1_0.25",
    "mobilenet_v2",
    "lenet5",
    "mobilefacenet",
)

SMALL_LOSS = 0.2
"""Points that the baseline may lose without a claim about ours."""
DEPTHWISE, DEPTHWISE_LOSS = "mobilenet_v1_0.25", 1.0
"""The model that loses most with 8 bits, and points that ours may lose on it."""
FAST = 1.8
"""Times faster than float that ours must be where the baseline is."""


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return [measured(model) for model in scope.models]


def ratio(pair: SpeedRatio | None) -> str:
    """A ratio with its interval."""
    return "" if pair is None else f"{pair.ratio:.2f} ({pair.low:.2f} to {pair.high:.2f})"


def main_table(rows: Sequence[Row]) -> str:
    """A line for each file."""
    lines = []
    for row in rows:
        times = row.times
        ms = f"{times.ms:.3f}" if times else ""
        variants: list[tuple[str, File, str, str]] = [("float", row.source, "", "")]
        variants.append((f"`quantize_static`, {row.method}", row.baseline, ratio(times.baseline) if times else "", ""))
        if row.ours is not None:
            against = (ratio(times.ours), ratio(times.versus)) if times else ("", "")
            variants.append(("`onnxopt`", row.ours, *against))
        for name, file, slower, versus in variants:
            first = file is row.source
            lost = "" if first else f"{row.lost(file):.2f}"
            layers = "" if first else f"{file.kernels.integer} of {file.kernels.layers}"
            lines.append([
                row.model if first else "", name, f"{file.metric:.2f}", lost, f"{file.size / 1e3:,.0f}", layers,
                "" if first else str(file.kernels.dequantized), ms if first else "", slower, versus,
            ])  # fmt: skip
    columns = ["model", "variant", "top-1 or pairs %", "lost", "kB", "INT8 layers", "dequantized", "ms"]
    columns += ["time over float's", "over `quantize_static`'s"]
    return markdown(columns, "llrrrrrrrr", lines) + f"\n\nONNX Runtime {onnxruntime.__version__} on {machine()}."


@dataclass(frozen=True, slots=True)
class Claim:
    """A goal that was set, for each model."""

    text: str
    holds: Callable[[Row], bool | None]
    """None where it does not apply to a model, or nothing was measured."""


def _no_slower(row: Row) -> bool | None:
    pair = row.times.versus if row.times else None
    return None if pair is None else pair.ratio <= 1 or not pair.significant


def _faster(row: Row) -> bool | None:
    pair = row.times.versus if row.times else None
    return None if pair is None else pair.ratio < 1 and pair.significant


def _half_the_loss(row: Row) -> bool | None:
    lost = row.lost(row.baseline)
    return None if row.ours is None or lost <= SMALL_LOSS else row.lost(row.ours) <= lost / 2


def _half_the_size(row: Row) -> bool | None:
    return None if row.ours is None else row.ours.size <= row.baseline.size / 2


def _depthwise(row: Row) -> bool | None:
    return None if row.ours is None or row.model != DEPTHWISE else row.lost(row.ours) <= DEPTHWISE_LOSS


def _fast(row: Row) -> bool | None:
    times = row.times
    return (
        None if times is None or times.ours is None or times.baseline.ratio * FAST > 1 else times.ours.ratio * FAST <= 1
    )


CLAIMS = (
    Claim("no slower than `quantize_static` (beyond doubt, at the 1 % level)", _no_slower),
    Claim("faster than `quantize_static` (likewise)", _faster),
    Claim(f"at most half of its loss, where that is more than {SMALL_LOSS:g} points", _half_the_loss),
    Claim("at most half of its file", _half_the_size),
    Claim(f"at least {FAST:g} times faster than float, where `quantize_static` is", _fast),
    Claim(f"at most {DEPTHWISE_LOSS:g} point lost on {DEPTHWISE}", _depthwise),
)


def claims_table(rows: Sequence[Row]) -> str:
    """The models on which each claim holds."""
    lines = []
    for claim in CLAIMS:
        said = [(row.model, claim.holds(row)) for row in rows]
        yes, no = (", ".join(model for model, holds in said if holds is answer) or "none" for answer in (True, False))
        lines.append([claim.text, yes, no])
    return markdown(["`onnxopt` is, or has", "holds on", "does not hold on"], "lll", lines)


def methods_table(rows: Sequence[Row]) -> str:
    """The metric by calibration method of the baseline."""
    lines = []
    for row in rows:
        found = [f"{row.baselines[method].metric:.2f}" if method in row.baselines else "" for method in METHODS]
        lines.append([row.model, f"{row.source.metric:.2f}", *found])
    return markdown(["model", "float", *METHODS], "l" + "r" * (1 + len(METHODS)), lines)


TABLES = (
    Table("integers", "docs/integers.md", 120, measure, main_table, MODELS),
    Table("claims", "docs/integers.md", 120, measure, claims_table, MODELS),
    Table("methods", "docs/integers.md", 120, measure, methods_table, MODELS),
)
