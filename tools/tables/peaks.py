"""Peak memory and time of loading a compressed model, against its plain file: runtimes, optimization levels, ways.

Every load is a fresh process, and the forms take turns. Memory is what loading adds to the highest resident memory of
the process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import onnxruntime

import onnxopt
from common import one_load, realdata
from common.kept import ONNXOPT, fresh
from common.networks import resnet50
from common.pages import ROOT, machine, markdown
from tables import Scope, Table
from tables.loader import on_grids, write_models

_OLDER = ("all", "extended")
RUNTIMES = {"1.23.2": _OLDER, "1.27.0": _OLDER, "": ("all", "extended", "basic", "disabled")}
"""Each with levels of graph optimization; the last one is the installed one."""
TURNS = 3
_PLAIN = {"MiB": 1, "s": 1000}
FORMS = {"registered": "plain", "load": "plain", "c": "c-plain"}
"""Each with what it is compared with."""
VGG16, RESNET50, IMAGENETTE = "VGG-16's shapes", "ResNet-50's shapes", "resnet50v2_imagenette"


def write(model: str, folder: Path) -> None:
    """Writes plain.onnx and compressed.onnx."""
    if model == VGG16:
        write_models(folder, 1.0)
    elif model == RESNET50:
        on_grids(resnet50(), folder)
    else:
        source = realdata.path_of(IMAGENETTE)
        (folder / "plain.onnx").symlink_to(source)
        onnxopt.optimize(source, folder / "compressed.onnx", effort="fast")


def packages(version: str) -> Path:
    """The folder to import this onnxruntime from; fetched where it is not there."""
    folder = ROOT / "build" / "runtimes" / f"onnxruntime-{version}"
    if not folder.is_dir():
        unfinished = folder.with_name(f"{folder.name}.part")
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"onnxruntime=={version}"]
        subprocess.run([*pip, "--target", str(unfinished)], check=True)
        unfinished.rename(folder)
    return folder


def loaded(file: Path, version: str, form: str, level: str) -> dict[str, float]:
    """Seconds `s` and `MiB` of one load by this runtime; an empty version stands for the installed one."""
    path = [str(ROOT), str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*([str(packages(version))] if version else []), *path])}
    command = [sys.executable, "-P", one_load.__file__, form, str(file), level]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def in_turns(plain: Path, compressed: Path, version: str, level: str, turns: int) -> list[dict[str, dict[str, float]]]:
    """What `loaded` says of each form, and of what it is compared with, by form, in every turn."""
    files = dict.fromkeys(FORMS.values(), plain) | dict.fromkeys(FORMS, compressed)
    return [{form: loaded(file, version, form, level) for form, file in files.items()} for _ in range(turns)]


def row(folder: Path, model: str, version: str, level: str) -> list[str]:
    """Medians over turns: of each form's ratios to the plain file within a turn, and of the plain file."""
    turns = in_turns(folder / "plain.onnx", folder / "compressed.onnx", version, level, TURNS)

    def ratio(form: str, what: str) -> str:
        return f"{median(turn[form][what] / turn[FORMS[form]][what] for turn in turns):.2f}x"

    plains = [f"{median(turn['plain'][what] * unit for turn in turns):.0f}" for what, unit in _PLAIN.items()]
    cells = [f"{ratio(form, 'MiB')}, {ratio(form, 's')}" for form in FORMS]
    return [model, version or onnxruntime.__version__, level, *plains, *cells]


def measured(model: str) -> list[list[str]]:
    """Rows of one model, for each runtime and level."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh(write, model, folder)
        return [row(folder, model, version, level) for version, levels in RUNTIMES.items() for level in levels]


def measure(scope: Scope) -> list[list[str]]:
    """The rows of every model."""
    return [row for model in (RESNET50, IMAGENETTE, VGG16) for row in ONNXOPT.once(measured, model)]


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown."""
    heads = ["model", "runtime", "level", "plain, MiB", "plain, ms", "registered", "`load`", "C"]
    return f"{markdown(heads, 'lllrrrrr', rows)}\n\nMedians of {TURNS} turns on {machine()}."


TABLES = (Table("peaks", "docs/loader.md", 12, measure, render),)
