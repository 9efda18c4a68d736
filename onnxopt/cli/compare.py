"""The compare command: compares published systems with the engine."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from onnxopt.cli.app import console, print_json, progress, write
from onnxopt.cli.groups import command
from onnxopt.cli.many import Clustered
from onnxopt.cli.optimize import Checked
from onnxopt.cli.options import Bounds, Inputs, Memory, Model, Showing, option
from onnxopt.files import writing
from onnxopt.pool.cluster import Cluster
from onnxopt.report.batch import moved
from onnxopt.report.compare import print_systems, render
from onnxopt.spec import recipes
from onnxopt.spec.recipes import Recipe
from onnxopt.studies.compare import compare as measure

_ALL = "all"


@dataclass(frozen=True)
class Systems(Memory, Showing, Checked, Clustered):
    """Options for what to compare and how to show it."""

    recipes: Annotated[
        str, option(help=f"{_ALL}, or a comma-separated list of {', '.join(recipes.names())} and .toml files.")
    ] = _ALL
    tune: Annotated[
        str | None,
        option(metavar="TIME", help="Also show the engine and recipes tuned, as with optimize, for a time (5m) or a "
                                    "number of passes (30epochs) each."),
    ] = None  # fmt: skip
    report: Annotated[Path | None, option("--report", help="Also write an HTML page with the curves here.")] = None


@command
def compare(model: Model, inputs: Inputs, bounds: Bounds, systems: Systems) -> None:
    """Compare published systems with the engine on the same model, contract and data."""
    with writing({"--report": systems.report}):
        contract, chosen = bounds.contract, _opened(systems.recipes)
        with progress(systems.verbose, systems.log_json) as advance:
            data, checked = inputs.opened(model, systems.evaluation)
            with systems.within as pool:
                found = measure(model, chosen, contract, data, evaluation=checked, max_ram=systems.ram,
                                tune=systems.tune, progress=advance, pool=pool)  # fmt: skip
                if isinstance(pool, Cluster):
                    advance(moved(pool), 1.0)
        found = replace(found, command=shlex.join(["onnxopt", *sys.argv[1:]]))
        if systems.report:
            write(systems.report, render(found))
    if systems.as_json:
        print_json(found)
    else:
        print_systems(console(), found)


def _opened(names: str) -> list[Recipe]:
    """Opens recipes by name. Raises OnnxoptError if one does not exist."""
    return [Recipe.open(name.strip()) for name in (recipes.names() if names == _ALL else names.split(","))]
