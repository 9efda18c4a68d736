"""What streamed residence takes and costs: VGG-16's shapes, in fresh processes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median

import numpy as np
import onnxruntime
import psutil

import onnxopt
from common.kept import ONNXOPT, fresh
from common.pages import machine, markdown
from onnxopt.measure import memory
from tables import Table
from tables.loader import MIB, write_models

LOADS, RUNS = 3, 5
FORMS = ("loaded", "streamed:64MiB", "streamed")
LARGEST = 4096 * 512 * 7 * 7 * 4
"""Bytes of the largest weight, the first fully connected layer's."""
ACTIVATIONS = 2 * 64 * 224 * 224 * 4
"""Bytes of the largest input and output that are there together: the second convolution's."""


def measure(folder: Path, residence: str) -> dict[str, float]:
    """One process: seconds, MiB beyond those before loading, milliseconds of the fastest run."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnxopt.residence", residence)
    onnxopt.register(options)
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    session = onnxruntime.InferenceSession(str(folder / "compressed.onnx"), options)
    seconds = time.perf_counter() - started
    times = []
    image = np.random.default_rng(1).random((1, 3, 224, 224), np.float32)
    for _ in range(RUNS):
        started = time.perf_counter()
        session.run(None, {"image": image})
        times.append((time.perf_counter() - started) * 1e3)
    steady = psutil.Process().memory_info().rss
    peak = max(memory.peak() or 0, steady)
    return {
        "load s": seconds,
        "peak MiB": (peak - before) / MIB,
        "steady MiB": (steady - before) / MIB,
        "run ms": min(times),
    }


def measured() -> dict[str, dict[str, float]]:
    """The medians by form, and the bytes of the file."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        fresh(write_models, folder, 1.0)
        turns = [{form: fresh(measure, folder, form) for form in FORMS} for _ in range(LOADS)]
        found = {form: {what: median(turn[form][what] for turn in turns) for what in turns[0][form]} for form in FORMS}
        return {**found, "file": {"bytes": (folder / "compressed.onnx").stat().st_size}}


def render(found: Mapping[str, Mapping[str, float]]) -> str:
    """The table, and how the peak compares with what has to be there."""
    rows = [[f"`{form}`", *(f"{found[form][what]:.2f}" for what in found[form])] for form in FORMS]
    file = found["file"]["bytes"]
    needed = (file + LARGEST + ACTIVATIONS) / MIB
    return (
        markdown(["residence", *found[FORMS[0]]], "lrrrr", rows)
        + f"\n\nThe compressed file, its largest weight and the largest activations are {file / MIB:.1f} + "
        f"{LARGEST / MIB:.1f} + {ACTIVATIONS / MIB:.1f} = {needed:.1f} MiB; the peak of `streamed` is "
        f"{found['streamed']['peak MiB'] / needed:.2f} times that. Medians of {LOADS} processes, the fastest of {RUNS} "
        f"runs, on {machine()}, ONNX Runtime {onnxruntime.__version__}."
    )


TABLES = (Table("streamed", "docs/loader.md", 3, lambda scope: ONNXOPT.once(measured), render),)
