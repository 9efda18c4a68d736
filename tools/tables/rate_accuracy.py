"""Accuracy over ratio: onnxopt with and without data, plain rounding, and the control.

Every point is a file that was written and run over the whole test part. *Plain rounding* is one relative error for all
weights (`uniform`), nearest integers, onnxopt's clean-ups and codecs; the *control* is that of `common.control`.
"""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import FuncFormatter, NullFormatter

import onnxopt
from common import realdata
from common.control import BITS, control
from common.internals import sites
from common.kept import ONNXOPT
from common.pages import markdown
from common.runs import optimize, original
from onnxopt import Contract
from onnxopt.graph import read
from onnxopt.spec.plan import Plan, Step
from tables import Figure, Scope, Table

RATIOS = {"resnet56": (8, 11, 15, 20, 26), "squeezenet1.1": (5, 6.5, 8, 10, 12)}
"""What onnxopt is asked for."""
ERRORS = (0.04, 0.07, 0.12, 0.2, 0.3)
"""Noise over signal in every matrix, of plain rounding."""
VECTOR_ERROR = 0.001
"""Likewise in biases, which are few."""
IMAGES = 1024
SHOWN = 12
"""Points below the original, where the figure ends."""
COLOURS = ("#2f8fd8", "#d98200", "#16a077", "#c8609a")
INK = "#808080"
"""Readable on white and on black."""


@dataclass(frozen=True, slots=True)
class Point:
    """One file."""

    setting: str
    ratio: float
    metric: float


@dataclass(frozen=True, slots=True)
class Curves:
    """What was measured of a model."""

    model: str
    before: float
    """The original's metric, percent."""
    points: dict[str, list[Point]]
    """By the name of the curve."""


def measure(model: str, scope: Scope) -> Curves:
    """Every point of a model."""
    points: dict[str, list[Point]] = {}
    for images, name in ((IMAGES, "onnxopt, training images without labels"), (None, "onnxopt, no data")):
        runs = [
            (ratio, ONNXOPT.once(optimize, model, Contract(target_ratio=ratio), images, scope.limit))
            for ratio in RATIOS[model]
        ]
        points[name] = [Point(f"asked for {ratio:g}x", run.ratio, run.metric) for ratio, run in runs]
    points["plain rounding, same codecs"] = [ONNXOPT.once(rounded, model, error, scope.limit) for error in ERRORS]
    controls = [control(model, bits, scope.limit) for bits in BITS]
    points["integers per channel, zstd -19"] = [Point(f"{one.bits} bits", one.ratio, one.metric) for one in controls]
    return Curves(model, original(model, scope.limit), points)


def rounded(model: str, error: float, limit: int | None) -> Point:
    """A model with the same relative error in every matrix."""
    source = read(realdata.path_of(model))
    errors = {site.path: error if len(site.shape) > 1 else VECTOR_ERROR for site in sites(source.path)}
    plan = Plan(source.sha256, {path: Step("uniform", (("error", value),)) for path, value in errors.items()})
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        done = onnxopt.apply(source.path, plan, small)
        metric = realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric
    return Point(f"error {error:g}", done.bytes_before / done.bytes_after, metric)


def render(found: Curves) -> str:
    """The points in Markdown."""
    rows = [
        [name, p.setting, f"{p.ratio:.2f}x", f"{p.metric:.2f}", f"{found.before - p.metric:.2f}"]
        for name, points in found.points.items()
        for p in points
    ]
    return markdown(["", "setting", "ratio", "top-1 %", "points lost"], "llrrr", rows)


def draw(found: Curves) -> str:
    """The points as a figure (SVG), the same bytes for the same points."""
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "onnxopt", "font.size": 10, "font.family": "sans-serif"}
    )
    mpl.rcParams.update(
        dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    )
    figure = Drawing(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(found.before, color=INK, linewidth=1, linestyle="--", label="original")
    for (name, points), colour, marker in zip(found.points.items(), COLOURS, "os^D", strict=True):
        ordered = sorted(points, key=lambda point: point.ratio)
        axes.plot([p.ratio for p in ordered], [p.metric for p in ordered], color=colour, marker=marker, label=name)
    axes.set_ylim(found.before - SHOWN, found.before + 1)
    axes.set_xscale("log")
    within = [p.ratio for points in found.points.values() for p in points if p.metric > found.before - SHOWN]
    axes.set_xlim(min(within) / 1.05, max(within) * 1.1)
    axes.set_xticks(
        [r for r in (3, 4, 5, 6, 8, 10, 12, 16, 20, 26, 32) if min(within) / 1.05 <= r <= max(within) * 1.1]
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid(color=INK, alpha=0.25, linewidth=0.6)
    axes.set_xlabel("bytes of the original over bytes of the file (logarithmic)")
    axes.set_ylabel("top-1 on the test part, %")
    axes.set_title(f"{found.model}: {realdata.TASKS[found.model].data}")
    axes.legend(loc="lower left", frameon=False)
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return svg.getvalue()


TABLES = tuple(
    Table(
        f"rate-accuracy-{model}",
        "docs/engine.md",
        10,
        partial(measure, model),
        render,
        (model,),
        figure=Figure(f"docs/rate_accuracy_{model}.svg", draw),
    )
    for model in RATIOS
)
