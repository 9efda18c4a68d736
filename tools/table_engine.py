"""Measures what the engine keeps of the shared models at given ratios, and rewrites the tables in docs/engine.md.

    python tools/table_engine.py                          # half an hour: everything is measured anew
    python tools/table_engine.py --only resnet32 --print  # these models

Nothing is tuned on test parts: each run is asked for a ratio, or for a drop, and gets training images or nothing. Every
run is a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import realdata
import resnet50
from control import as_good, control
from generated import machine, markdown, rewrite
from measured import Run, fresh, optimize, original

from onnxopt import Contract

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "engine.md"
RATIOS, CONTROLS, DROPS, COSTS = (f"<!-- table:{name} -->" for name in ("ratios", "controls", "drops", "costs"))
IMAGES = 1024


@dataclass(frozen=True, slots=True)
class Ask:
    """One run at a ratio."""

    model: str
    ratio: float
    """What is asked for."""
    allowed: float | None
    """Points that it may lose; None where we only look."""
    images: int | None = IMAGES
    """Of the training part, at most; None: no data."""


ASKS = (
    Ask("resnet20", 7.5, 0.3, None),
    Ask("resnet20", 10, None, None),
    Ask("resnet32", 7.5, 0.3, None),
    Ask("resnet32", 10, None, None),
    Ask("resnet56", 8.5, 0.3, None),
    Ask("resnet56", 11, None, None),
    Ask("resnet20", 10, None),
    Ask("resnet32", 10, 0.1),
    Ask("resnet32", 16, 1.0),
    Ask("resnet32", 18, None),
    Ask("resnet56", 12, 0.3),
    Ask("resnet56", 20, 1.5),
    Ask("lenet5", 25, 0.1),
    Ask("lenet5", 40, None),
    Ask("resnet50v2_imagenette", 10, 0.5),
    Ask("resnet50v2_imagenette", 15, None),
    Ask("squeezenet1.1", 7, 1.0),
    Ask("squeezenet1.1", 9, None),
    Ask("mobilenet_v2", 6.5, 1.0),
    Ask("mobilenet_v2", 8, None),
    Ask("mobilenet_v1_0.25", 5, 1.0),
    Ask("mobilenet_v1_0.25", 6.5, None),
    Ask("mobilefacenet", 8, 0.3),
    Ask("mobilefacenet", 8, None, None),
    Ask("mobilefacenet", 10, None),
)
DROPPING = (
    ("resnet20", 0.3),
    ("resnet32", 0.3),
    ("resnet56", 0.5),
    ("lenet5", 0.1),
    ("resnet50v2_imagenette", 0.5),
    ("squeezenet1.1", 1.0),
    ("mobilenet_v2", 1.0),
    ("mobilenet_v1_0.25", 1.0),
)
"""Models, and the points that their top-1 is allowed to drop."""
LABELLED = 12_000
"""Labelled training images, at most: a quarter is held back to search with."""
SECONDS = {Ask("resnet56", 12, 0.3): 180, Ask("squeezenet1.1", 7, 1.0): 120}
"""What runs may take on two cores."""
LARGE, LARGE_RATIO, LARGE_SECONDS = "resnet50", 10.0, 360
"""The network of `resnet50.py`, likewise."""


def data(model: str, images: int | None) -> str:
    """The data of a run, in words."""
    if images is None:
        return "none"
    name = realdata.TASKS[model].data.split(",")[0]
    if realdata.TASKS[model].stand_in:
        return "300 photographs of ImageNet, no faces"
    return f"{min(images, {'ImageNet': 300, 'Imagenette': 400}.get(name, images)):,} of {name}"


def ratios_table(runs: dict[Ask, Run], limit: int | None) -> str:
    """What is left of the metric."""
    rows = []
    for ask, run in runs.items():
        before = original(ask.model, limit)
        lost = round(before - run.metric, 4)
        kept = "" if ask.allowed is None else "yes" if lost <= ask.allowed and run.ratio >= ask.ratio else "**no**"
        allowed = "" if ask.allowed is None else f"{ask.allowed:.1f}"
        figures = [f"{ask.ratio:g}x", f"{run.bytes_after:,}", f"{run.ratio:.2f}x", f"{before:.2f}", f"{run.metric:.2f}"]
        cost = [f"{run.seconds:.0f}", f"{run.peak_memory / 1e6:.0f}"]
        rows.append([ask.model, data(ask.model, ask.images), *figures, f"{lost:.2f}", allowed, kept, *cost])
    columns = ["model", "training images", "asked", "bytes", "ratio", "before %", "after %", "lost", "may lose", "kept"]
    return markdown([*columns, "s", "peak MB"], "llrrrrrrrrrr", rows)


def controls_table(runs: dict[Ask, Run], limit: int | None) -> str:
    """How much smaller than the control."""
    rows = []
    for ask, run in runs.items():
        eight, equal = control(ask.model, 8, limit), as_good(ask.model, run.metric, limit)
        row = [ask.model, data(ask.model, ask.images), f"{run.ratio:.2f}x", f"{run.metric:.2f}"]
        row += [f"{eight.ratio:.2f}x", f"{eight.metric:.2f}", f"{eight.bytes_after / run.bytes_after:.2f}x"]
        if equal is None:
            row += ["", "", "", ""]
        else:
            row += [f"{equal.bits}", f"{equal.ratio:.2f}x", f"{equal.metric:.2f}"]
            row += [f"{equal.bytes_after / run.bytes_after:.2f}x"]
        rows.append(row)
    columns = ["model", "training images", "ratio", "after %", "8 bits", "%", "ours is smaller"]
    return markdown([*columns, "fewest bits as good", "ratio", "%", "ours is smaller"], "llrrrrrrrrr", rows)


def drops_table(runs: dict[tuple[str, float], Run], limit: int | None) -> str:
    """What contracts on the metric find."""
    rows = []
    for (model, asked), run in runs.items():
        validation = "" if run.validation is None else f"{run.validation:.2f}"
        lost = original(model, limit) - run.metric
        figures = [f"{asked:.1f}", validation, f"{lost:.2f}", f"{run.ratio:.2f}x", f"{run.seconds:.0f}"]
        rows.append([model, data(model, LABELLED), *figures, "3" if run.refused else "0"])
    columns = ["model", "labelled images", "may drop", "drops on those held back", "on the test part", "ratio", "s"]
    return markdown([*columns, "exit code"], "llrrrrrr", rows)


def large_run() -> Run:
    """The large network on ImageNet's training photographs, as a user does it, at the command line."""
    photographs = realdata.DATA / "imagenet" / "els300"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "resnet50.onnx"
        fresh(resnet50.write, source)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        program, output = Path(sys.executable).with_name("onnxopt"), Path(folder) / "small.onnx"
        asked = f"--preprocess imagenet --target-ratio {LARGE_RATIO} --json".split()
        command = [str(word) for word in (program, "optimize", source, "-o", output, "--data", photographs, *asked)]
        done = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Run(done["bytes_before"], done["bytes_after"], done["seconds"], cpu_seconds, done["peak_memory"], None,
               float("nan"))  # fmt: skip


def costs_table(runs: Iterable[tuple[str, str, Run, float]]) -> str:
    """Seconds and memory: model, images, what was measured, seconds that it may take."""
    rows = []
    for model, images, run, seconds in runs:
        row = [model, images, f"{run.bytes_before / 1e6:.1f}", f"{run.ratio:.2f}x"]
        row += [f"{value:.0f}" for value in (run.seconds, run.cpu_seconds, seconds)]
        row += [f"{run.peak_memory / 1e6:.0f}", f"{(4 * run.bytes_before + 10**9) / 1e6:.0f}"]
        rows.append(row)
    columns = ["model", "training images", "source MB", "ratio", "s", "CPU s", "may take s", "peak MB", "may take MB"]
    return markdown(columns, "llrrrrrrr", rows) + f"\n\nOn {machine()}."


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Measures the engine and rewrites docs/engine.md's tables.")
    models = sorted({ask.model for ask in ASKS} | {LARGE})
    parser.add_argument("--only", nargs="+", choices=models, default=models, help="these models")
    tables = ("ratios", "drops", "costs")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables, help="these; controls go with ratios")
    parser.add_argument("--limit", type=int, help="so many images of test parts (for trying out)")
    parser.add_argument("--print", action="store_true", help="print the tables, leave docs/engine.md alone")
    arguments = parser.parse_args()
    if not arguments.print and (arguments.limit or arguments.only != models):
        parser.error("docs/engine.md wants all models and images: --print")

    def run(ask: Ask) -> Run:
        print(f"{ask}", file=sys.stderr)
        found = fresh(optimize, ask.model, Contract(target_ratio=ask.ratio), ask.images, arguments.limit)
        print(f"  {found}", file=sys.stderr)
        return found

    texts: dict[str, str] = {}
    runs: dict[Ask, Run] = {}
    if "ratios" in arguments.tables:
        runs = {ask: run(ask) for ask in ASKS if ask.model in arguments.only}
        texts[RATIOS] = ratios_table(runs, arguments.limit)
        texts[CONTROLS] = controls_table(runs, arguments.limit)
    if "drops" in arguments.tables:
        dropped = {}
        for model, drop in DROPPING:
            if model in arguments.only:
                dropped[model, drop] = fresh(optimize, model, Contract(max_drop=drop), LABELLED, arguments.limit)
                print(f"{model}, {drop}: {dropped[model, drop]}", file=sys.stderr)
        texts[DROPS] = drops_table(dropped, arguments.limit)
    if "costs" in arguments.tables:
        costs = [
            (ask.model, data(ask.model, ask.images), runs.get(ask) or run(ask), seconds)
            for ask, seconds in SECONDS.items()
            if ask.model in arguments.only
        ]
        if LARGE in arguments.only:
            costs.append(
                ("25.5 million random weights in ResNet-50's shapes", "300 of ImageNet", large_run(), LARGE_SECONDS)
            )
        texts[COSTS] = costs_table(costs)
    for marker, text in texts.items():
        if arguments.print:
            print(f"{marker}\n{text}\n")
        else:
            rewrite(DOCUMENT, text, marker)
    return 0


if __name__ == "__main__":
    sys.exit(main())
