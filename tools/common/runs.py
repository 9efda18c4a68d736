"""Models compressed and evaluated."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import onnxopt
from common import realdata
from common.kept import RUNTIME
from onnxopt import Contract
from onnxopt.data import Spec
from onnxopt.spec.effort import Effort


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `onnxopt.optimize`, and what its file does on the test part."""

    bytes_before: int
    bytes_after: int
    seconds: float
    """Of `optimize`, with its final check."""
    cpu_seconds: float
    """Of all threads together, which other work on the machine changes little."""
    peak_memory: int
    """Bytes, of the process with the data; before the test part is read."""
    validation: float | None
    """Drop of the metric where the search stopped."""
    metric: float
    """Percent, on the test part; NaN where that was not measured."""
    refused: str = ""
    """Why the contract was missed; then the file is the one that `allow_miss` writes."""

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after


def compress(
    source: Path,
    output: Path,
    contract: Contract,
    data: Spec | None,
    evaluation: Spec | None = None,
    effort: Effort = Effort.DEFAULT,
) -> Run:
    """Compresses a file, with `allow_miss` where the contract is missed; the metric is NaN."""
    refused, started = "", time.process_time()
    try:
        done = onnxopt.optimize(source, output, contract, data, evaluation=evaluation, effort=effort)
    except onnxopt.Missed as missed:
        refused, started = str(missed), time.process_time()
        done = onnxopt.optimize(source, output, contract, data, evaluation=evaluation, effort=effort, allow_miss=True)
    cpu_seconds = time.process_time() - started
    return Run(done.bytes_before, done.bytes_after, done.seconds, cpu_seconds, done.peak_memory or 0,
               done.kept.drop if done.kept else None, float("nan"), refused)  # fmt: skip


def optimize(
    model: str,
    contract: Contract,
    images: int | None = None,
    limit: int | None = None,
    effort: Effort = Effort.DEFAULT,
) -> Run:
    """Compresses a model and evaluates it.

    Arguments:
        model: a key of `realdata.TASKS`.
        contract: where it bounds the metric, the images have labels, and the result is checked on the test part.
        images: training images, at most, to calibrate and search on; None for no data.
        limit: test images, at most; None for all.
        effort: what the run may cost.
    """
    task, labelled = realdata.TASKS[model], contract.max_drop is not None
    data = None if images is None else task.batches("train", images, labelled)
    evaluation = task.batches("test", limit, True) if labelled else None
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        run = compress(realdata.path_of(model), small, contract, data, evaluation, effort)
        return replace(run, metric=realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric)


def original(model: str, limit: int | None = None) -> float:
    """The metric of a model as it is, in percent; kept."""
    return RUNTIME.once(_original, model, limit)


def _original(model: str, limit: int | None) -> float:
    return realdata.evaluate(model, realdata.plain_session(realdata.path_of(model)), limit=limit).metric


def training_images(model: str, images: int | None) -> str:
    """The training images of a run that asks for `images`, in words."""
    if images is None:
        return "none"
    name = realdata.TASKS[model].data.split(",")[0]
    if realdata.TASKS[model].stand_in:
        return "300 photographs of ImageNet, no faces"
    return f"{min(images, {'ImageNet': 300, 'Imagenette': 400}.get(name, images)):,} of {name}"
