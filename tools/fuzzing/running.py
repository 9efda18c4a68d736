"""Puts many models through `check`, each with a time limit, in processes that may die without ending the run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import onnxruntime

from fuzzing.checking import Finding, check, modes
from fuzzing.growing import every_node
from fuzzing.models import case_of

SECONDS = 20.0
"""Of the processor, for one model, so that a busy machine is no finding."""
SILENCE = 200.0
"""Seconds after which a process that does not answer is ended."""

_MEMORY = Path("/dev/shm")
"""Files that are forced to the disk are slow; these need none."""


class OutOfTime(BaseException):
    """A model took too long. No handler of ordinary exceptions takes it for its own."""


@dataclass(frozen=True, slots=True)
class Row:
    """What came out of one seed."""

    seed: int
    operators: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    seconds: float = 0.0


@dataclass(slots=True)
class Summary:
    """Counts over many seeds."""

    models: int = 0
    calls: Counter[str] = field(default_factory=Counter)
    """Of `optimize`, by mode."""
    operators: Counter[str] = field(default_factory=Counter)
    """Models that have the operator."""
    findings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, row: Row) -> None:
        """Counts one seed."""
        self.models += bool(row.operators)
        self.calls.update(row.modes)
        self.operators.update(row.operators)
        self.findings += row.findings
        self.seconds += row.seconds

    @property
    def kinds(self) -> Counter[str]:
        """Models with a finding, by kind."""
        return Counter(kind for kind, _ in {(one.kind, one.seed) for one in self.findings})

    @property
    def distinct(self) -> dict[str, list[Finding]]:
        """Findings by signature, the most frequent first."""
        found: dict[str, list[Finding]] = {}
        for one in self.findings:
            found.setdefault(one.signature, []).append(one)
        return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def fuzz(seeds: Sequence[int], jobs: int = 1, each: Callable[[int], Row] | None = None) -> Summary:
    """Checks the models of these seeds in `jobs` processes.

    Arguments:
        each: a module's function that checks one; by default, `one`.
    """
    summary = Summary()
    for row in _rows(list(seeds), jobs, each or one):
        summary.add(row)
    return summary


def one(seed: int, seconds: float = SECONDS) -> Row:
    """Checks the model of one seed in this process."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz") as folder:
        case = None
        try:
            with _limited(seconds):
                case = case_of(seed)
                if case is None:
                    return Row(seed)
                found = check(case, Path(folder))
        except OutOfTime as error:
            found = [Finding(seed, "slow", "any", str(error))]
        operators = tuple(sorted({node.op_type for node in every_node(case.model)})) if case else ()
        wanted = tuple(modes(seed, ()))
        return Row(seed, operators, wanted, tuple(found), time.monotonic() - started)


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps what ONNX Runtime writes to the terminal, which is nothing that a finding lacks, away from it."""
    onnxruntime.set_default_logger_severity(4)
    sys.stderr.flush()
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raises OutOfTime where the body takes longer."""

    def expired(number: int, frame: FrameType | None) -> None:
        raise OutOfTime(f"takes more than {seconds:g} s")

    before = signal.signal(signal.SIGPROF, expired)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@dataclass(slots=True)
class _Worker:
    """A process, the seed that it works on, and when it got it."""

    process: Any
    pipe: Connection
    each: Callable[[int], Row]
    seed: int | None = None
    since: float = 0.0

    @classmethod
    def start(cls, each: Callable[[int], Row]) -> _Worker:
        """A fresh process."""
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, each), daemon=True)
        process.start()
        theirs.close()
        return cls(process, ours, each)

    def give(self, seed: int) -> None:
        """Starts on a seed."""
        self.seed, self.since = seed, time.monotonic()
        self.pipe.send(seed)

    def end(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, each: Callable[[int], Row]) -> None:
    if _MEMORY.is_dir():
        tempfile.tempdir = str(_MEMORY)
    with tempfile.TemporaryDirectory(prefix="fuzz-cache") as cache, quiet():
        os.environ["XDG_CACHE_HOME"] = cache
        while True:
            try:
                seed = pipe.recv()
            except EOFError:
                return
            pipe.send(each(seed))


def _rows(left: list[int], jobs: int, each: Callable[[int], Row]) -> Iterator[Row]:
    left.reverse()
    workers = [_Worker.start(each) for _ in range(min(jobs, len(left)))]
    try:
        for worker in workers:
            worker.give(left.pop())
        while busy := [worker for worker in workers if worker.seed is not None]:
            ready = wait([worker.pipe for worker in busy], timeout=1)
            for worker in busy:
                row = None
                if worker.pipe in ready:
                    row = _answer(worker)
                elif time.monotonic() - worker.since > SILENCE:
                    row = _gone(worker, "slow", f"gives no answer in {SILENCE:g} s")
                if row is None:
                    continue
                worker.seed = None
                if not worker.process.is_alive():
                    workers.remove(worker)
                    workers.append(_Worker.start(each))
                free = workers[-1] if worker not in workers else worker
                if left:
                    free.give(left.pop())
                yield row
    finally:
        for worker in workers:
            worker.end()


def _answer(worker: _Worker) -> Row:
    try:
        row: Row = worker.pipe.recv()
    except (EOFError, ConnectionError):
        worker.process.join()
        if _dies_without_us(worker.seed or 0):
            worker.end()
            return Row(worker.seed or 0)
        return _gone(worker, "killed", f"the process ended with {worker.process.exitcode}")
    return row


def _dies_without_us(seed: int) -> bool:
    """Whether stock ONNX Runtime ends the process while the model of a seed is made: then there is no valid model."""
    alone = multiprocessing.get_context("spawn").Process(target=case_of, args=(seed,), daemon=True)
    alone.start()
    alone.join()
    return alone.exitcode != 0


def _gone(worker: _Worker, kind: str, what: str) -> Row:
    worker.end()
    seed = worker.seed or 0
    return Row(seed, ("?",), (), (Finding(seed, kind, "any", what),), time.monotonic() - worker.since)
