"""What tools that measure the engine share: runs in processes of their own, and files compressed and evaluated."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import realdata

import onnxopt
from onnxopt import Contract
from onnxopt.data import Spec

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of `onnxopt.optimize`, and what its file does on the test part."""

    bytes_before: int
    bytes_after: int
    seconds: float
    """Of `optimize`, its own check included."""
    cpu_seconds: float
    """Likewise, of all threads together: what other work on the machine does not change."""
    peak_memory: int
    """Bytes, of the process with the data; before the test part is read."""
    validation: float | None
    """Drop of the metric where the search stopped."""
    metric: float
    """Percent, on the test part; not a number where that was not measured."""
    refused: str = ""
    """Why the contract was missed; then this is what `allow_miss` writes."""

    @property
    def ratio(self) -> float:
        """How many times smaller the file is."""
        return self.bytes_before / self.bytes_after


def fresh(function: Callable[Arguments, Value], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Value:
    """What a module's function returns, called in a process of its own, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


def compress(source: Path, output: Path, contract: Contract, data: Spec | None, evaluation: Spec | None = None) -> Run:
    """Compresses a file, with `allow_miss` where the contract is missed; the metric is not a number."""
    refused, started = "", time.process_time()
    try:
        done = onnxopt.optimize(source, output, contract, data, evaluation)
    except onnxopt.Missed as missed:
        refused, started = str(missed), time.process_time()
        done = onnxopt.optimize(source, output, contract, data, evaluation, allow_miss=True)
    cpu_seconds = time.process_time() - started
    return Run(done.bytes_before, done.bytes_after, done.seconds, cpu_seconds, done.peak_memory or 0,
               done.kept.drop if done.kept else None, float("nan"), refused)  # fmt: skip


def optimize(model: str, contract: Contract, images: int | None = None, limit: int | None = None) -> Run:
    """Compresses a shared model and evaluates it; for `fresh`.

    Arguments:
        model: a key of `realdata.TASKS`.
        contract: where it bounds the metric, the images have labels, and the result is checked on the test part.
        images: so many of the training part, at most, to calibrate and search on; None for no data.
        limit: so many images of the test part (for trying out).
    """
    task, labelled = realdata.TASKS[model], contract.max_drop is not None
    data = None if images is None else task.batches("train", images, labelled)
    evaluation = task.batches("test", limit, True) if labelled else None
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.onnx"
        run = compress(realdata.path_of(model), small, contract, data, evaluation)
        return replace(run, metric=realdata.evaluate(model, realdata.registered_session(small), limit=limit).metric)


@cache
def original(model: str, limit: int | None = None) -> float:
    """The metric of a model as it is, in percent."""
    return fresh(_original, model, limit)


def _original(model: str, limit: int | None) -> float:
    return realdata.evaluate(model, realdata.plain_session(realdata.path_of(model)), limit=limit).metric
