"""Our INT8 models in the oldest supported runtime, against the newest, on the first images of the test part."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import onnxopt
from common import realdata
from common.int8_files import measured, ours
from common.kept import RUNTIME
from common.pages import ROOT, markdown
from onnxopt.metrics.output_error import output_error
from tables import CannotMeasureError, Scope, Table
from tables.integers import MODELS

PACKAGES = ROOT / "build" / "runtimes" / "onnxruntime-1.17.3"
"""The folder that tests/test_runtimes.py fetches the oldest runtime into."""
IMAGES = 200
RUN = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
name = session.get_inputs()[0].name
np.save(sys.argv[3], np.concatenate([session.run(None, {name: x[None]})[0] for x in np.load(sys.argv[2])]))
print(onnxruntime.__version__)
"""


def row(model: str, file: Path) -> list[str]:
    """One model. Raises what the checker raises, and CalledProcessError where the old runtime fails."""
    task = realdata.TASKS[model]
    x = task.prepare(task.read("test").images[:IMAGES])
    with tempfile.TemporaryDirectory() as folder:
        plain, inputs, outputs = (Path(folder) / name for name in ("plain.onnx", "x.npy", "y.npy"))
        onnxopt.decompress(file, plain)
        onnx.checker.check_model(str(plain), full_check=True)
        np.save(inputs, x)
        command = [sys.executable, "-c", RUN, *map(str, (plain, inputs, outputs))]
        env = {**os.environ, "PYTHONPATH": str(PACKAGES)}
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
        session = onnxruntime.InferenceSession(str(plain), providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        newest = np.concatenate([session.run(None, {name: one[None]})[0] for one in x])
        oldest = np.load(outputs)
    same = int((newest.argmax(1) == oldest.argmax(1)).sum())
    return [model, done.stdout.strip(), onnxruntime.__version__, f"{same} of {len(x)}",
            f"{output_error([newest], [oldest]):.4f}"]  # fmt: skip


def measure(scope: Scope) -> list[list[str]]:
    """A row for each model. Raises CannotMeasureError where the old runtime has not been fetched."""
    if not PACKAGES.is_dir():
        raise CannotMeasureError(f"no runtime in {PACKAGES}; `pytest -m slow tests/test_runtimes.py` fetches it")
    files = {model: ours(model, measured(model, timed=False).baseline.size) for model in scope.models}
    return [RUNTIME.once(row, model, file) for model, file in files.items() if file]


def render(rows: Sequence[list[str]]) -> str:
    """The rows in Markdown."""
    return markdown(["model", "oldest", "newest", "the same first class", "noise/signal"], "lllrr", rows)


TABLES = (Table("oldest", "docs/integers.md", 90, measure, render, MODELS),)
