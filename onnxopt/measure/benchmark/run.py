"""The complete benchmark: all measurements of all models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnx

from onnxopt import runtime
from onnxopt.data import Array, Data, Spec, open_data
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import is_compressed, macs, parameters, read
from onnxopt.measure.benchmark.energy import Rapl
from onnxopt.measure.benchmark.inputs import Inputs, inputs_for
from onnxopt.measure.benchmark.latency import Latency, SpeedRatio, latency, log_ratios, paired, take_turns
from onnxopt.measure.benchmark.machine import Machine, this_machine
from onnxopt.measure.benchmark.profile import OpTime, time_by_op
from onnxopt.measure.benchmark.worker import LOADED, Feeds, Loaded, Worker, workers
from onnxopt.runtime import archive
from onnxopt.spec.progress import Progress

_SAMPLES = 8
"""Different inputs for latencies, used in turns."""
_WINDOW = 1000.0
"""Milliseconds of runs for a throughput or an energy."""
_TIMED = 0.8
"""Share of the work that goes to latencies, for progress."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Samples a second when nothing else runs."""

    batch: int
    threads: int
    samples_per_s: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one model. Memory is that beyond a process without it; medians are over processes."""

    path: str
    """The file, followed by the residence of its weights if that is not the usual one."""
    residence: str
    """Of a compressed model's weights: "loaded", or "streamed" with a size perhaps; see docs/loader.md."""
    file_size: int
    """Bytes, including external data."""
    parameters: int
    macs: int | None
    """Multiply-accumulates of one run; None if they cannot be counted, and `notes` says why."""
    inputs: dict[str, tuple[int, ...]]
    """Shapes of the inputs for the latency."""
    batch: int
    """Samples of one such run."""
    load_ms: float
    """Median, for a file in the system's cache."""
    first_run_ms: float
    """Median of the first run after loading."""
    warm_up_runs: int
    """Median: runs between the first one and the timed ones."""
    latency: Latency
    throughput: tuple[Throughput, ...]
    peak_rss: int
    """Bytes, median: peak while loading and warming up."""
    steady_rss: int
    """Bytes, median: when warm."""
    energy_mj: float | None
    """Millijoules of one run, without idle energy; None for the reason in `energy_note`."""
    energy_note: str
    ops: tuple[OpTime, ...]
    notes: tuple[str, ...]
    """What could not be measured, and why."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Result of `benchmark`."""

    machine: Machine
    data: str
    """Name of the user's data, or "noise"."""
    threads: int
    """Of the runtime within operators."""
    providers: tuple[str, ...]
    """Execution providers that were asked for; none: as the runtime chooses."""
    processes: int
    """Fresh processes for each model, in which latencies, loading and memory are measured."""
    models: tuple[Measured, ...]
    paired: tuple[SpeedRatio, ...]
    """Each other model relative to the first."""


@dataclass(frozen=True, slots=True)
class _Model:
    """A model under measurement."""

    path: Path
    file_size: int
    plain: onnx.ModelProto
    inputs: Inputs
    residence: str = LOADED

    def __str__(self) -> str:
        return str(self.path) if self.residence == LOADED else f"{self.path} ({self.residence})"

    def batches(self, size: int, count: int) -> tuple[Path, list[Feeds], str]:
        """What a worker runs: so many inputs of this batch size."""
        return self.path, self.inputs.batches(size, count), self.residence


def benchmark(  # noqa: PLR0913 - the options of the command
    models: Sequence[str | os.PathLike[str]],
    data: Spec | None = None,
    threads: Sequence[int] = (),
    batches: Sequence[int] = (1, 8),
    seconds: float = 60.0,
    residences: Sequence[str] = (LOADED,),
    progress: Progress = lambda _what, _share: None,
) -> Benchmark:
    """Measures models, plain or compressed, and compares each with the first.

    Arguments:
        models: files.
        data: inputs for the models, as in `open_data`; noise if None.
        threads: numbers of intra-op threads; if empty, the runtime chooses. Latencies are measured with the first,
            throughput with each.
        batches: batch sizes, used likewise; a model's fixed batch size overrides them.
        seconds: most time for the latencies of each model, if intervals stay wide.
        residences: each compressed model is measured once with its weights in each of these; see docs/loader.md.
        progress: told the current work and the share that is done, 0 to 1.

    Raises OnnxoptError if a model or the data cannot be read, or a model does not run.
    """
    if not models or not batches or min([*batches, *threads], default=1) < 1 or seconds <= 0:
        raise OnnxoptError("expected a model, and batch sizes, threads and seconds of more than zero")
    machine = this_machine()
    opened = []
    for path in map(Path, models):
        progress(f"reading {path.name}", 0.0)
        opened += _open(path, data, residences)
    chosen = threads[0] if threads else None
    costs: list[list[Loaded]] = [[] for _ in opened]

    @contextmanager
    def start(process: int) -> Iterator[list[Worker]]:
        turns = [model.batches(batches[0], _SAMPLES) for model in opened]
        with workers(turns, chosen, process) as started:
            for cost, worker in zip(costs, started, strict=True):
                cost.append(worker.loaded)
            yield started

    times = take_turns(start, seconds * len(opened), lambda share: progress("running in turns", _TIMED * share))
    measured = []
    for i, model in enumerate(opened):
        progress(f"measuring {Path(str(model)).name}", _TIMED + (1 - _TIMED) * i / len(opened))
        measured.append(_measure(model, costs[i], latency(times[i]), threads, batches, machine.cores))
    return Benchmark(
        machine=machine,
        data=opened[0].inputs.name,
        threads=chosen or machine.cores,
        providers=runtime.providers_in_use(),
        processes=len(costs[0]),
        models=tuple(measured),
        paired=tuple(
            paired(str(model), str(opened[0]), log_ratios(times[i], times[0]))
            for i, model in enumerate(opened)
            if i > 0
        ),
    )


def _open(path: Path, data: Spec | None, residences: Sequence[str]) -> list[_Model]:
    source = read(path)
    compressed = is_compressed(source.model)
    plain = archive.decompress(path) if compressed else source.model
    session = runtime.load_checked(path)
    opened: Data | None = None if data is None else open_data(data, session)
    try:
        inputs = inputs_for(session, plain, opened, _SAMPLES)
    except OnnxoptError as error:
        raise OnnxoptError(f"{path}: {error}") from error
    return [_Model(path, source.size, plain, inputs, one) for one in (residences if compressed else (LOADED,))]


def _measure(
    model: _Model, costs: list[Loaded], found: Latency, threads: Sequence[int], batches: Sequence[int], cores: int
) -> Measured:
    """All measurements except the latency, which is `found`."""
    notes: list[str] = []
    (feeds,) = model.inputs.batches(batches[0], 1)
    chosen = threads[0] if threads else None
    count, ops = None, tuple[OpTime, ...]()
    try:
        count = sum(macs(model.plain, feeds).values())
    except OnnxoptError as error:
        notes.append(str(error))
    try:
        if model.residence == LOADED:
            ops = time_by_op(model.path, feeds, chosen)
        else:
            notes.append("time by operator: not of streamed weights")
    except Exception as error:  # the runtime has its own classes, and some models are too large for its profiler
        notes.append(f"time by operator: {first_line(error)}")
    fixed = model.inputs.fixed
    if fixed is not None and any(batch != fixed for batch in batches):
        notes.append(f"throughput: the model takes batches of {fixed} only")
    throughput = []
    for count_threads in threads or (None,):
        for batch in batches if fixed is None else (fixed,):
            try:
                rate = _throughput(model, batch, count_threads)
                throughput.append(Throughput(batch, count_threads or cores, rate))
            except OnnxoptError as error:
                reason = str(error).removeprefix(f"{model.path}: ").rpartition("Status Message: ")[2]
                notes.append(f"throughput at batch {batch}: {reason}")
    energy, energy_note = _energy(model, feeds, chosen)
    return Measured(
        path=str(model),
        residence=model.residence,
        file_size=model.file_size,
        parameters=parameters(model.plain),
        macs=count,
        inputs={name: tuple(array.shape) for name, array in feeds.items()},
        batch=fixed or batches[0],
        load_ms=median(cost.load_ms for cost in costs),
        first_run_ms=median(cost.first_run_ms for cost in costs),
        warm_up_runs=int(median(cost.warm_up_runs for cost in costs)),
        latency=found,
        throughput=tuple(throughput),
        peak_rss=int(median(cost.peak_rss for cost in costs)),
        steady_rss=int(median(cost.steady_rss for cost in costs)),
        energy_mj=energy,
        energy_note=energy_note,
        ops=ops,
        notes=tuple(notes),
    )


def _runs(worker: Worker) -> int:
    return max(2, round(_WINDOW / float(worker.block(2)[-1])))


def _throughput(model: _Model, batch: int, threads: int | None) -> float:
    path, feeds, residence = model.batches(batch, 1)
    with Worker(path, feeds, threads, residence) as worker:
        return 1e3 * batch / float(worker.block(_runs(worker)).mean())


def _energy(model: _Model, feeds: Mapping[str, Array], threads: int | None) -> tuple[float | None, str]:
    """Millijoules of a run, or None and the reason."""
    try:
        counters = Rapl()
    except OnnxoptError as error:
        return None, str(error)
    with Worker(model.path, [dict(feeds)], threads, model.residence) as worker:
        runs = 2 * _runs(worker)
        return 1e3 * counters.above_idle(lambda: worker.block(runs)) / runs, ""
