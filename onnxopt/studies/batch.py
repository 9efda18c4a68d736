"""Many models, each optimized by a process of its own: one that fails, or runs out of memory, stops no other."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from math import inf
from pathlib import Path
from threading import Condition, Lock
from typing import IO, Any

from onnxopt.calibration.moments import moment_bytes
from onnxopt.errors import Missed, OnnxoptError
from onnxopt.graph import Graph, hoist, normalise, read
from onnxopt.pool import Pool
from onnxopt.spec.progress import Progress

_PREFIX = "onnxopt: "
"""Of the sentence that a failing command prints."""


@dataclass(frozen=True, slots=True)
class Job:
    """One model and its request."""

    model: Path
    output: Path
    words: tuple[str, ...] = ()
    """Further words of `onnxopt optimize`."""
    folder: Path = field(default_factory=Path.cwd)
    """Where relative paths start."""
    memory: int = 0
    """Bytes that statistics may take, of all jobs that run here at a time; 0 if it measures none."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a job. docs/pipelines.md describes it as JSON."""

    model: Path
    output: Path
    status: str
    """That of the result (see docs/result.md); or ``kept``: the output was there already; or ``failed``."""
    code: int
    """Exit code; negative: the number of the signal that ended the process."""
    reason: str
    """Why it failed or missed, in a sentence; else empty."""
    bytes_before: int | None
    """Of the source, external data included; None if it failed, or the output was there already."""
    bytes_after: int | None
    """Of the output; None if it was not written."""
    seconds: float
    peak_memory: int | None
    """Bytes, of the process; None if it did not say."""


def batch(command: Sequence[str], jobs: Sequence[Job], pool: Pool, tell: Progress) -> Iterator[tuple[int, Outcome]]:
    """Runs jobs; an output that is what its job would make is left as it is.

    Arguments:
        command: what Python runs as `onnxopt`.
        tell: told the share of all jobs that is done.

    Here, a job waits until its statistics fit beside those of the jobs that run. Yields the index of each job and its
    outcome, as they end. If it is stopped, the processes that run here are, too.
    """
    shares, running = _Shares(jobs, tell), _Running(pool.places > 1)
    work = partial(run, tuple(command), running=running, shares=shares) if pool.here else partial(run, tuple(command))
    try:
        for index, outcome in pool.as_ended(work, list(enumerate(jobs))):
            shares.done(index)
            yield index, outcome
    finally:
        running.end()


def exit_code(outcomes: Sequence[Outcome]) -> int:
    """That of the worst: an error is worse than a contract that cannot be met."""
    codes = {outcome.code for outcome in outcomes}
    return Missed.exit_code if codes <= {0, Missed.exit_code} and any(codes) else OnnxoptError.exit_code * any(codes)


def needed(model: Path) -> float:
    """Bytes that the statistics of a model take if they are measured all at once; infinite if that is not known."""
    try:
        content = read(model).model
        if content.functions:  # they would be inlined by ONNX, where a fault ends the process, and all jobs
            return inf
        normalise(content)
        hoist(content)
        graph = Graph(content)
        return 2.0 * sum(moment_bytes(graph, path, linears[0]) for path, linears in graph.linears().items())
    except Exception:  # its job says what is wrong with it
        return inf


class _Running:
    """Processes that run now, and what their statistics may take together."""

    def __init__(self, several: bool = False) -> None:
        self._lock, self._processes, self._ended = Lock(), set[subprocess.Popen[str]](), False
        self._several = several
        self._reading, self._freed, self._taken = Lock(), Condition(), 0.0

    @contextmanager
    def fitting(self, job: Job) -> Iterator[None]:
        """Waits until the job's statistics fit beside those of others. A job alone always fits."""
        need = 0.0
        if job.memory and self._several:
            with self._reading:  # one model in memory at a time
                need = min(job.memory, needed(job.folder / job.model))
        with self._freed:
            self._freed.wait_for(lambda: not (need and self._taken) or self._taken + need <= job.memory)
            self._taken += need
        try:
            yield
        finally:
            with self._freed:
                self._taken -= need
                self._freed.notify_all()

    def add(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.add(process)
            if self._ended:
                process.terminate()

    def remove(self, process: subprocess.Popen[str]) -> None:
        with self._lock:
            self._processes.discard(process)

    def end(self) -> None:
        """Ends them, and those that are added from now on."""
        with self._lock:
            self._ended = True
            for process in self._processes:
                process.terminate()


class _Shares:
    """How much of each job is done."""

    def __init__(self, jobs: Sequence[Job], tell: Progress) -> None:
        self._jobs, self._tell, self._lock = jobs, tell, Lock()
        self._shares, self._finished = [0.0] * len(jobs), 0

    def step(self, index: int, phase: str, share: float) -> None:
        with self._lock:
            self._shares[index] = share
            total = sum(self._shares) / len(self._shares)
            name = self._jobs[index].model.name
            self._tell(f"{self._finished} of {len(self._jobs)} models done; {name}: {phase}", total)

    def done(self, index: int) -> None:
        self._finished += 1
        self.step(index, "done", 1.0)


def run(
    command: tuple[str, ...], job: tuple[int, Job], running: _Running | None = None, shares: _Shares | None = None
) -> Outcome:
    """Runs one job, given with its index, unless its output is what it would make."""
    index, one = job
    started = time.monotonic()
    words = (sys.executable, *command, "optimize", str(one.model), *one.words)
    running = running or _Running()

    def told(phase: str, share: float) -> None:
        if shares:
            shares.step(index, phase, share)

    output = one.folder / one.output
    if _is_there(output) and _ended((*words, "--check", str(one.output), "--json"), one.folder, running, told)[0] == 0:
        return Outcome(one.model, one.output, "kept", 0, "", None, output.stat().st_size,
                       time.monotonic() - started, None)  # fmt: skip
    words = (*words, "-o", str(one.output), "--json", "--log-json", "-")
    with running.fitting(one):
        code, result, reason = _ended(words, one.folder, running, told)
    status = result.get("status", "missed" if code == Missed.exit_code else "failed")
    return Outcome(one.model, one.output, status, code, reason, result.get("bytes_before"), result.get("bytes_after"),
                   time.monotonic() - started, result.get("peak_memory"))  # fmt: skip


def _is_there(output: Path) -> bool:
    try:
        return output.exists()
    except OSError:  # the name may be too long
        return False


def _ended(words: Sequence[str], folder: Path, running: _Running, tell: Progress) -> tuple[int, dict[str, Any], str]:
    """Runs a command to its end: its exit code, its result, and the last sentence that it said."""
    with tempfile.TemporaryFile("w+", encoding="utf-8") as results:
        process = subprocess.Popen(words, cwd=folder, stdout=results, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL,
                                   text=True, encoding="utf-8", errors="backslashreplace")  # fmt: skip
        running.add(process)
        try:
            said = _listened(process.stderr, tell)
            code = process.wait()
        finally:
            running.remove(process)
            process.kill()  # nothing, once it has ended
        results.seek(0)
        text = results.read()
    if code < 0:
        said = f"its process was ended by signal {-code}"
    return code, json.loads(text) if text and code in (0, Missed.exit_code) else {}, said if code else ""


def _listened(errors: IO[str] | None, tell: Progress) -> str:
    """Passes events on until the process ends; returns the last line that is none, without its prefix."""
    said = ""
    for line in errors or ():
        try:
            event = json.loads(line)
            tell(event["phase"], event["share"])
        except (ValueError, KeyError, TypeError):
            said = line.strip() or said
    return said.removeprefix(_PREFIX)
