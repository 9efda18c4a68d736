"""Puts all recipes beside the engine on real models, and rewrites the tables in docs/classical.md.

    python tools/table_recipes.py                                # an hour
    python tools/table_recipes.py --only "lenet5 hier" resnet32  # the other rows stay as they are
    python tools/table_recipes.py --only lenet5 --print

Searches see labelled training images only. Accuracy was measured on the whole test part, in stock ONNX Runtime with the
registered library. Recipes lose unlike much of what they may, so the engine is also asked for a row of sizes, and each
recipe is compared with the smallest of the engine's files that is right as often.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import realdata
from generated import END, machine, markdown, rewrite
from measured import fresh

import onnxopt
from onnxopt import Contract
from onnxopt.spec import recipes
from onnxopt.spec.recipes import Recipe
from onnxopt.studies.compare import ENGINE

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "classical.md"
DROPS, SIZES = "<!-- table:recipes -->", "<!-- table:engine-sizes -->"

Rows = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for on one model."""

    drop: float
    """Points of top-1."""
    images: int
    """Of the training part, at most: three quarters to calibrate with, a quarter to search with."""
    ratios: tuple[float, ...]
    """Of the engine."""


ASKS = {
    "lenet5": Ask(0.5, 16_000, (20, 30, 40, 50, 60, 70)),
    "lenet_300_100": Ask(0.5, 16_000, (10, 15, 20, 25, 30, 40)),
    "resnet32": Ask(0.5, 2_400, (6, 8, 10, 12, 14, 16)),
    "squeezenet1.1": Ask(1.0, 300, (5, 6, 7, 8)),
}
SYSTEMS = [f"{model} {system}" for model in ASKS for system in (ENGINE, *recipes.names())]
RATIOS = [f"{model} {ratio:g}x" for model, ask in ASKS.items() for ratio in ask.ratios]


@dataclass(frozen=True, slots=True)
class Found:
    """One file."""

    size: int
    metric: float
    """Percent, on the test part."""
    zeros: float
    """Share of the elements of weights, biases aside."""
    seconds: float
    """Of all threads, for compression."""


def compress(model: str, contract: Contract, system: str) -> Found:
    """One file of a model, by the engine or by a recipe; for `fresh`."""
    task, recipe = realdata.TASKS[model], None if system == ENGINE else Recipe.open(system)
    data, few = task.batches("train", ASKS[model].images, True), task.batches("train", 32, True)
    with tempfile.TemporaryDirectory() as folder:
        small, started = Path(folder) / "small.onnx", time.process_time()
        # Its own check is a few training images: the test part is seen once, below.
        done = onnxopt.optimize(realdata.path_of(model), small, contract, data, few, allow_miss=True, recipe=recipe)
        seconds = time.process_time() - started
        metric = realdata.evaluate(model, realdata.registered_session(small)).metric
    matrices = [event for event in done.events if len(event.shape) > 1 and event.elements]
    zeros = sum(event.zeros * event.elements for event in matrices) / max(1, sum(e.elements for e in matrices))
    return Found(done.bytes_after, metric, zeros, seconds)


def original(model: str, drops: Rows) -> float:
    """The metric of a model as it is: measured, or as a row that is there has it."""
    for row in drops.values():
        if row[0] == model:
            return float(row[5]) + float(row[6])
    return fresh(_original, model)


def _original(model: str) -> float:
    return realdata.evaluate(model, realdata.plain_session(realdata.path_of(model))).metric


def drops_row(model: str, system: str, before: float) -> list[str]:
    """What a system makes of a model that may lose so much."""
    ask, size = ASKS[model], realdata.path_of(model).stat().st_size
    found = fresh(compress, model, Contract(max_drop=ask.drop), system)
    lost = before - found.metric
    row = [model, f"{ask.drop}", system, f"{found.size:,}", f"{size / found.size:.2f}x", f"{found.metric:.2f}"]
    kept = "yes" if lost <= ask.drop + 1e-9 else "no"
    return [*row, f"{lost:.2f}", kept, f"{100 * found.zeros:.0f} %", f"{found.seconds:.0f}"]


def sizes_row(model: str, ratio: str, before: float) -> list[str]:
    """What the engine makes of a model that shall be so small."""
    found = fresh(compress, model, Contract(target_ratio=float(ratio.rstrip("x"))), ENGINE)
    size = realdata.path_of(model).stat().st_size
    row = [model, ratio, f"{found.size:,}", f"{size / found.size:.2f}x", f"{found.metric:.2f}"]
    return [*row, f"{before - found.metric:.2f}"]


def drops_table(drops: Rows, sizes: Rows) -> str:
    """With the engine at equal accuracy."""
    columns = ["model", "may lose", "system", "bytes", "ratio", "after %", "lost", "kept", "zeros", "CPU s"]
    columns += ["engine at that", "times smaller"]
    rows = [[*row, *_beside(row, drops, sizes)] for row in drops.values()]
    return f"{markdown(columns, 'lrlrrrrlrrrr', rows)}\n\nOn {machine()}."


def _beside(row: list[str], drops: Rows, sizes: Rows) -> list[str]:
    """The smallest file of the engine that loses no more than the row's, and by how much it is smaller.

    One that is right more often than the original counts as right as often.
    """
    if row[2] == ENGINE:
        return ["", ""]
    files = [(_bytes(one[3]), float(one[6])) for one in drops.values() if one[0] == row[0] and one[2] == ENGINE]
    files += [(_bytes(one[2]), float(one[5])) for one in sizes.values() if one[0] == row[0]]
    lost = max(0.0, float(row[6]))
    best = min((size for size, engine_lost in files if engine_lost <= lost), default=0)
    return [f"{best:,}", f"{_bytes(row[3]) / best:.2f}"] if best else ["none", ""]


def _bytes(text: str) -> int:
    return int(text.replace(",", ""))


def known() -> tuple[Rows, Rows]:
    """The rows that the document has, by their names: systems under one bound, and the engine's sizes."""
    found = []
    for opening, width, name in ((DROPS, 10, 2), (SIZES, 6, 1)):
        text = DOCUMENT.read_text(encoding="utf-8").partition(opening)[2].partition(END)[0]
        lines = [line.strip("| ").split("|") for line in text.splitlines() if line.startswith("|")]
        rows = [[cell.strip() for cell in line][:width] for line in lines[2:]]
        found.append({f"{row[0]} {row[name]}": row for row in rows})
    return found[0], found[1]


def keep(drops: Rows, sizes: Rows) -> None:
    """Writes these rows beside those that the document has."""
    drops, sizes = ({**old, **new} for old, new in zip(known(), (drops, sizes), strict=True))
    rewrite(DOCUMENT, drops_table({n: drops[n] for n in SYSTEMS if n in drops}, sizes), DROPS)
    columns = ["model", "asked", "bytes", "ratio", "after %", "lost"]
    rewrite(DOCUMENT, markdown(columns, "lrrrrr", [sizes[n] for n in RATIOS if n in sizes]), SIZES)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Puts recipes beside the engine and rewrites docs/classical.md.")
    parser.add_argument(
        "--only", nargs="+", default=[""], help="beginnings of rows, as in 'lenet5 engine', 'lenet5 20x'"
    )
    parser.add_argument("--print", action="store_true", help="only print the rows")
    arguments = parser.parse_args()
    for name in (*SYSTEMS, *RATIOS):
        if not name.startswith(tuple(arguments.only)):
            continue
        model, what = name.split()
        before = original(model, known()[0])
        row = (drops_row if name in SYSTEMS else sizes_row)(model, what, before)
        print(*row, sep=" | ", flush=True)
        if not arguments.print:
            keep(*(({name: row}, {}) if name in SYSTEMS else ({}, {name: row})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
