"""Peak memory and time of loading a compressed model, against its plain file: runtimes, optimization levels, ways.

Every load is a fresh process, and the forms take turns: ratios are medians of those within a turn. Memory is what
loading adds to the highest resident memory of the process.
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

RUNTIMES = ("1.23.2", "1.27.0", "")
"""The last one is the installed one."""
TURNS = {"all": 3, "extended": 1, "basic": 1, "disabled": 1}
FORMS = {"registered": "plain", "load": "plain", "c": "c-plain"}
"""Each with what it is compared with."""
VGG16, RESNET50, IMAGENETTE = "VGG-16's shapes", "ResNet-50's shapes", "resnet50v2_imagenette"
FASTEST = f"{IMAGENETTE}, `--decode fastest`"


def write(model: str, folder: Path) -> None:
    """Writes plain.onnx and compressed.onnx."""
    if model == VGG16:
        write_models(folder, 1.0)
    elif model == RESNET50:
        on_grids(resnet50(), folder)
    else:
        source = realdata.path_of(IMAGENETTE)
        (folder / "plain.onnx").symlink_to(source)
        decode = "fastest" if model == FASTEST else "balanced"
        onnxopt.optimize(source, folder / "compressed.onnx", effort="fast", decode=decode)


def packages(version: str) -> Path:
    """The folder to import this onnxruntime from; fetched where it is not there."""
    folder = ROOT / "build" / "runtimes" / f"onnxruntime-{version}"
    if not folder.is_dir():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", f"onnxruntime=={version}"]
        subprocess.run([*pip, "--target", str(folder)], check=True)
    return folder


def one(folder: Path, version: str, form: str, level: str) -> dict[str, float]:
    """One load: seconds and MiB."""
    path = [str(ROOT), str(ROOT / "tools"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*([str(packages(version))] if version else []), *path])}
    file = folder / ("plain.onnx" if form in FORMS.values() else "compressed.onnx")
    command = [sys.executable, "-P", one_load.__file__, form, str(file), level]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout))


def measured(model: str, version: str) -> list[list[str]]:
    """Rows of one model in one runtime, a row for each level."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh(write, model, folder)
        for level, turns in TURNS.items():
            loads = [
                {form: one(folder, version, form, level) for form in ("plain", "c-plain", *FORMS)} for _ in range(turns)
            ]
            ratios = {what: [f"{median(turn[form][what] / turn[plain][what] for turn in loads):.2f}x"
                             for form, plain in FORMS.items()] for what in ("MiB", "s")}  # fmt: skip
            plain = f"{median(turn['plain']['MiB'] for turn in loads):.0f}"
            times = ratios["s"] if level == "all" else [""] * len(FORMS)
            rows.append([model, version or onnxruntime.__version__, level, plain, *ratios["MiB"], *times])
    return rows


def measure(scope: Scope) -> list[list[str]]:
    """The rows of every model and runtime."""
    every = [(model, version) for model in (VGG16, RESNET50, IMAGENETTE, FASTEST) for version in RUNTIMES]
    return [row for model, version in every for row in ONNXOPT.once(measured, model, version)]


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown."""
    heads = ["model", "runtime", "level", "plain, MiB", "registered", "`load`", "C", "time: registered", "`load`", "C"]
    return (
        f"{markdown(heads, 'lllrrrrrrr', rows)}\n\nPeaks, and at the level *all* times, as multiples of the plain "
        f"file's; medians of {TURNS['all']} turns at the level *all*, else one, on {machine()}."
    )


TABLES = (Table("peaks", "docs/loader.md", 12, measure, render),)
