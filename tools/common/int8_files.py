"""`onnxopt optimize --for speed` beside ONNX Runtime's static quantization: the files, their accuracy and times.

Calibration and search see training images, accuracy is that of the whole test part in stock ONNX Runtime (with the
registered library for ours), and times are of one sample on two threads, all files of a model in turns. The machine
must be idle for `race`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import onnxopt
from common import realdata
from common.kept import ONNXOPT, RUNTIME
from common.kernels import Kernels, kernels
from common.static_int8 import METHODS, int8
from onnxopt import Contract, OnnxoptError
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.measure.benchmark.latency import latency, log_ratios, paired, take_turns
from onnxopt.measure.benchmark.worker import LOADED, workers

IMAGES = 16384
"""Training images, at most."""
THREADS = 2
SECONDS = 120.0
"""For the times of one model, at most."""


@dataclass(frozen=True, slots=True)
class File:
    """What is measured of a file without a clock."""

    size: int
    metric: float
    """Percent, on the test part: top-1; for faces the share of pairs told right."""
    kernels: Kernels


@dataclass(frozen=True, slots=True)
class Times:
    """Of a model's files, timed in turns."""

    ms: float
    """Of the float model, on one sample."""
    baseline: SpeedRatio
    """Against float."""
    ours: SpeedRatio | None = None
    """Against float."""
    versus: SpeedRatio | None = None
    """Ours against the baseline."""


@dataclass(frozen=True, slots=True)
class Row:
    """A model."""

    model: str
    source: File
    baselines: dict[str, File]
    """By calibration method."""
    ours: File | None = None
    times: Times | None = None

    @property
    def method(self) -> str:
        """The calibration method of the baseline: the one that does best on the test part, which favours it."""
        return max(self.baselines, key=lambda method: self.baselines[method].metric)

    @property
    def baseline(self) -> File:
        """The file of that method."""
        return self.baselines[self.method]

    def lost(self, file: File) -> float:
        """Points of the metric; rounded, because subtraction leaves an error in the last digits."""
        return round(self.source.metric - file.metric, 6)


def inspect(model: str, path: Path) -> File:
    """Measures one file."""
    metric = realdata.evaluate(model, realdata.registered_session(path)).metric
    return File(path.stat().st_size, metric, kernels(path))


def race(model: str, *files: Path) -> Times:
    """Times of the source, the baseline and, where there is a third file, ours; all in turns."""
    task = realdata.TASKS[model]
    images = task.read("test").images[:8]
    entry = realdata.plain_session(files[0]).get_inputs()[0].name
    feeds = [{entry: task.prepare(images[i : i + 1])} for i in range(len(images))]
    turns = [(file, feeds, LOADED) for file in files]
    times = take_turns(lambda process: workers(turns, THREADS, process), SECONDS)

    def pair(one: int, other: int) -> SpeedRatio:
        return paired(str(files[one].name), str(files[other].name), log_ratios(times[one], times[other]))

    both = (pair(2, 0), pair(2, 1)) if len(files) > 2 else (None, None)
    return Times(latency(times[0]).mean_ms, pair(1, 0), *both)


def training(model: str, labelled: bool = False) -> Callable[[], Iterator[Any]]:
    """Calibration data for both. ImageNet has only 300 training photographs here, so Imagenette's are used, too."""
    task = realdata.TASKS[model]
    if task.read is not realdata.imagenet:
        return task.batches("train", IMAGES, labelled)
    parts = [realdata.imagenet("train").images, realdata.imagenette("train").images]
    images = np.random.default_rng(0).permutation(np.concatenate(parts))

    def start() -> Iterator[Any]:
        for i in range(0, len(images), 32):
            yield task.prepare(images[i : i + 32])

    return start


def baseline(output: Path, model: str, method: str) -> None:
    """ONNX Runtime's file, calibrated by one of `METHODS`."""
    int8(realdata.path_of(model), output, training(model), method)


def compressed(output: Path, model: str, baseline: int) -> None:
    """`onnxopt optimize --for speed`, as a user would ask for it.

    With labels the contract is a drop of half a point of top-1, on training images that nothing is calibrated on. A
    quarter of ImageNet's 300 cannot tell a drop of a point, and faces have neither training images nor labels: for
    these models the contract is half of the `baseline`'s bytes.
    """
    task = realdata.TASKS[model]
    labelled = task.stand_in is None and task.read is not realdata.imagenet
    contract = Contract(max_drop=0.5) if labelled else Contract(target_size=baseline // 2)
    data = training(model, labelled)
    onnxopt.optimize(realdata.path_of(model), output, contract, data, max_ram=2**31, goal="speed")


def ours(model: str, baseline: int) -> Path | None:
    """Our file, kept; None where the contract is missed."""
    try:
        return ONNXOPT.made(compressed, model, baseline)
    except OnnxoptError as error:
        print(f"{model}: {error}", file=sys.stderr)
        return None


def runtimes(model: str) -> tuple[Row, dict[str, Path]]:
    """The files of the runtime's quantizer, measured, with their paths by calibration method; everything is kept."""
    paths = {method: RUNTIME.made(baseline, model, method) for method in METHODS}
    known = {method: RUNTIME.once(inspect, model, path) for method, path in paths.items()}
    return Row(model, RUNTIME.once(inspect, model, realdata.path_of(model)), known), paths


def measured(model: str, timed: bool = True) -> Row:
    """Makes all files of a model and measures them; everything is kept."""
    row, baselines = runtimes(model)
    our_path = ours(model, row.baseline.size)
    paths = [realdata.path_of(model), baselines[row.method], *([our_path] if our_path else [])]
    return replace(
        row,
        ours=None if our_path is None else RUNTIME.once(inspect, model, our_path),
        times=RUNTIME.once(race, model, *paths) if timed else None,
    )
