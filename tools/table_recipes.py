"""Puts all recipes beside the engine on real models, and rewrites the tables in docs/classical.md.

    python tools/table_recipes.py                        # an hour
    python tools/table_recipes.py --only lenet5 --print

Searches see training images only, labelled ones where a drop is asked for. Accuracy was measured on the whole test
part, on the files, through the loader.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import realdata
from generated import machine, markdown, rewrite
from measured import Run, fresh, optimize, original

from onnxopt import Contract, recipes
from onnxopt.compare import ENGINE, Systems, compare
from onnxopt.recipes import Recipe

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "classical.md"
SIZES, DROPS = (f"<!-- table:recipes-{name} -->" for name in ("sizes", "drops"))


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked for on one model."""

    ratio: float
    drop: float
    """Points of top-1."""
    images: int
    """Labelled ones of the training part, for a drop: a quarter is searched with."""


ASKS = {
    "lenet5": Ask(20, 0.3, 16_000),
    "lenet_300_100": Ask(16, 0.3, 16_000),
    "resnet32": Ask(8, 0.5, 6_000),
    "squeezenet1.1": Ask(6, 1.0, 300),
}
CALIBRATION = 1024
"""Images, where a ratio is asked for."""


def sizes_table(found: dict[tuple[str, str], Run], limit: int | None) -> str:
    """What is left of the metric where all are asked for the same ratio."""
    rows = []
    for (model, system), run in found.items():
        before = original(model, limit)
        row = [model, f"{ASKS[model].ratio:g}x", system, f"{run.bytes_after:,}", f"{run.ratio:.2f}x"]
        rows.append([*row, f"{before:.2f}", f"{run.metric:.2f}", f"{before - run.metric:.2f}", f"{run.seconds:.0f}"])
    return markdown(
        ["model", "asked", "system", "bytes", "ratio", "before %", "after %", "lost", "s"], "lrlrrrrrr", rows
    )


def drops_table(found: dict[str, Systems]) -> str:
    """How small the files are where all may lose the same."""
    rows = []
    for model, systems in found.items():
        for system in systems.systems:
            assert system.found is not None
            c, left = system.found, (system.nonzero_macs or 0) / (systems.macs_before or 1)
            row = [model, f"{ASKS[model].drop}", system.name, "yes" if system.met else "no", f"{c.after:.2f}"]
            row += [f"{c.drop:.2f}", f"{system.size:,}", f"{systems.bytes_before / system.size:.2f}x"]
            rows.append([*row, f"{100 * system.zeros:.0f} %", f"{100 * left:.0f} %", f"{system.seconds:.0f}"])
    columns = ["model", "may lose", "system", "kept", "after %", "lost", "bytes", "ratio", "zeros", "MACs left", "s"]
    return markdown(columns, "lrllrrrrrrr", rows) + f"\n\nOn {machine()}."


def side_by_side(model: str, limit: int | None) -> Systems:
    """All systems under one bound for the drop; for `fresh`."""
    task, ask = realdata.TASKS[model], ASKS[model]
    every = [Recipe.open(name) for name in recipes.names()]
    train, test = task.batches("train", ask.images, True), task.batches("test", limit, True)
    return compare(realdata.path_of(model), every, Contract(max_drop=ask.drop), train, test)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Puts recipes beside the engine and rewrites docs/classical.md.")
    parser.add_argument("--only", nargs="+", choices=list(ASKS), default=list(ASKS), help="these models")
    tables = ("sizes", "drops")
    parser.add_argument("--tables", nargs="+", choices=tables, default=tables, help="these tables")
    parser.add_argument("--limit", type=int, help="so many images of test parts (for trying out)")
    parser.add_argument("--print", action="store_true", help="print the tables, leave docs/classical.md alone")
    arguments = parser.parse_args()
    if not arguments.print and (arguments.limit or arguments.only != list(ASKS)):
        parser.error("docs/classical.md wants all models and images: --print")

    def run(model: str, system: str) -> Run:
        contract = Contract(target_ratio=ASKS[model].ratio)
        name = None if system == ENGINE else system
        found = fresh(optimize, model, contract, CALIBRATION, arguments.limit, name)
        print(f"{model}, {system}: {found.ratio:.2f}x, {found.metric:.2f} %", file=sys.stderr)
        return found

    made: dict[str, str] = {}
    if "sizes" in arguments.tables:
        pairs = [(model, system) for model in arguments.only for system in (ENGINE, *recipes.names())]
        made[SIZES] = sizes_table({pair: run(*pair) for pair in pairs}, arguments.limit)
    if "drops" in arguments.tables:
        made[DROPS] = drops_table({model: fresh(side_by_side, model, arguments.limit) for model in arguments.only})
    for opening, text in made.items():
        if arguments.print:
            print(text)
        else:
            rewrite(DOCUMENT, text, opening)
    return 0


if __name__ == "__main__":
    sys.exit(main())
