"""Draws accuracy over ratio: the engine with and without data, plain rounding, and the control; for docs/engine.md.

    python tools/rate_accuracy.py                        # half an hour
    python tools/rate_accuracy.py squeezenet1.1 -o build # a figure and its table elsewhere

Every point is a file that was written and run over the whole test part. *Plain rounding* is one relative error for all
weights (`uniform`), nearest integers, the engine's clean-ups and codecs; the *control* is that of control.py.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import realdata
from control import BITS, control
from generated import markdown, rewrite
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from measured import fresh, optimize, original

import onnxopt
from onnxopt import Contract
from onnxopt.build.workspace import Workspace
from onnxopt.graph import read
from onnxopt.spec.plan import Plan, Step

DOCS = Path(__file__).resolve().parents[1] / "docs"
RATIOS = {"resnet56": (8, 11, 15, 20, 26), "squeezenet1.1": (5, 6.5, 8, 10, 12)}
"""What the engine is asked for."""
ERRORS = (0.04, 0.07, 0.12, 0.2, 0.3)
"""Of plain rounding: noise over signal in every matrix."""
VECTOR_ERROR = 0.001
"""Likewise of biases, which are few."""
IMAGES = 1024
SHOWN = 12
"""Points below the original where the figure ends."""
COLOURS = ("#2f8fd8", "#d98200", "#16a077", "#c8609a")
INK = "#808080"
"""Readable on white and on black."""


@dataclass(frozen=True, slots=True)
class Point:
    """One file."""

    setting: str
    ratio: float
    metric: float


Curves = dict[str, list[Point]]


def curves(model: str) -> Iterator[tuple[str, Point]]:
    """Every point of a model, with its curve's name."""
    for images, name in ((IMAGES, "onnxopt, training images without labels"), (None, "onnxopt, no data")):
        for ratio in RATIOS[model]:
            run = fresh(optimize, model, Contract(target_ratio=ratio), images)
            yield name, Point(f"asked for {ratio:g}x", run.ratio, run.metric)
    for error in ERRORS:
        yield "plain rounding, same codecs", fresh(rounded, model, error)
    for bits in BITS:
        found = control(model, bits)
        yield "integers per channel, zstd -19", Point(f"{bits} bits", found.ratio, found.metric)


def rounded(model: str, error: float) -> Point:
    """A shared model with the same relative error in every matrix; for `fresh`."""
    source = read(realdata.MODELS / f"{model}.onnx")
    sites = Workspace(source, False, "balanced", 0, lambda what, share: None).sites
    plan = Plan(
        source.sha256,
        {s.path: Step("uniform", (("error", error if len(s.shape) > 1 else VECTOR_ERROR),)) for s in sites},
    )
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        done = onnxopt.apply(source.path, plan, small)
        metric = realdata.evaluate(model, realdata.registered_session(small)).metric
    return Point(f"error {error:g}", done.bytes_before / done.bytes_after, metric)


def table(found: Curves, before: float) -> str:
    """The points in Markdown."""
    rows = [
        [name, p.setting, f"{p.ratio:.2f}x", f"{p.metric:.2f}", f"{before - p.metric:.2f}"]
        for name, points in found.items()
        for p in points
    ]
    return markdown(["", "setting", "ratio", "top-1 %", "points lost"], "llrrr", rows)


def draw(model: str, found: Curves, before: float, path: Path) -> None:
    """The points as a figure (SVG), the same bytes for the same points."""
    mpl.rcParams.update(
        {"svg.fonttype": "none", "svg.hashsalt": "onnxopt", "font.size": 10, "font.family": "sans-serif"}
    )
    mpl.rcParams.update(
        dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    )
    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(before, color=INK, linewidth=1, linestyle="--", label="original")
    for (name, points), colour, marker in zip(found.items(), COLOURS, "os^D", strict=True):
        ordered = sorted(points, key=lambda point: point.ratio)
        axes.plot([p.ratio for p in ordered], [p.metric for p in ordered], color=colour, marker=marker, label=name)
    axes.set_ylim(before - SHOWN, before + 1)
    axes.set_xscale("log")
    within = [p.ratio for points in found.values() for p in points if p.metric > before - SHOWN]
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
    axes.set_title(f"{model}: {realdata.TASKS[model].data}")
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws accuracy over ratio for docs/engine.md.")
    parser.add_argument("models", nargs="*", metavar="model", help=f"these models (default: {', '.join(RATIOS)})")
    parser.add_argument("-o", "--output", type=Path, help="a folder for figures and tables instead of docs")
    arguments = parser.parse_args()
    unknown = set(arguments.models) - set(RATIOS)
    if unknown:
        parser.error(f"no figure for {', '.join(sorted(unknown))}; there are {', '.join(RATIOS)}")
    for model in arguments.models or RATIOS:
        found: Curves = {}
        for name, point in curves(model):
            found.setdefault(name, []).append(point)
            print(f"{model}: {name}: {point}", file=sys.stderr)
        before = original(model)
        draw(model, found, before, (arguments.output or DOCS) / f"rate_accuracy_{model}.svg")
        if arguments.output:
            (arguments.output / f"rate_accuracy_{model}.md").write_text(table(found, before) + "\n", encoding="utf-8")
        else:
            rewrite(DOCS / "engine.md", table(found, before), f"<!-- table:rate-accuracy {model} -->")
    return 0


if __name__ == "__main__":
    sys.exit(main())
