"""Fresh processes with one model each, and the cost of loading it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import onnxruntime
import psutil

from onnxopt import runtime
from onnxopt.data import Array, custom_ops, libraries_in_use, session_options
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.measure import memory

Feeds = dict[str, Array]
LOADED = "loaded"
"""The usual residence of weights."""
_COMMAND = "from onnxopt.measure.benchmark.worker import serve; serve()"
_WARM_UP, _WARM_UP_RUNS = 0.1, 3
"""Seconds and runs of warm-up, whichever takes longer."""
_PAUSE, _LONGEST_PAUSE = 0.005, 0.25
"""Seconds; see `rest`."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a process reports when its model is warm."""

    load_ms: float
    first_run_ms: float
    warm_up_runs: int
    peak_rss: int
    """Peak memory until the model was warm, beyond that before loading, in bytes."""
    steady_rss: int
    """Memory when the model is warm, likewise."""


class Worker:
    """A separate process with one model, loaded and warm. To be used in a with statement.

    Arguments:
        path: the model, plain or compressed.
        feeds: inputs of the runs, used in turns.
        threads: intra-op threads; None lets the runtime choose.
        residence: where a compressed model's weights are, as in the config entry ``onnxopt.residence``.

    Raises OnnxoptError if the model does not load or run.
    """

    def __init__(self, path: Path, feeds: Sequence[Feeds], threads: int | None, residence: str = LOADED) -> None:
        self._path = path
        # -P: a folder called onnxopt in the current folder must not be imported.
        # A new session: Ctrl-C goes to the parent, which then ends this process.
        command = [sys.executable, "-P", "-c", _COMMAND]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        try:
            self.loaded: Loaded = self._ask(
                (path, list(feeds), threads, residence, libraries_in_use(), runtime.providers_in_use())
            )
        except BaseException:
            self.close()
            raise

    def block(self, runs: int) -> Array:
        """Milliseconds of each of `runs` runs in a row. Raises OnnxoptError if the model fails."""
        return np.asarray(self._ask(runs))

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, question: object) -> Any:
        assert self._process.stdin
        assert self._process.stdout
        try:
            _send(self._process.stdin, question)
            answer = pickle.load(self._process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
            code = self._process.wait()
            raise OnnxoptError(
                f"{self._path}: the process that ran it ended with code {code}; "
                "is there memory enough? the model may also crash the runtime"
            ) from error
        if isinstance(answer, OnnxoptError):
            raise OnnxoptError(f"{self._path}: {answer}")
        return answer


@contextmanager
def workers(
    models: Sequence[tuple[Path, Sequence[Feeds], str]], threads: int | None, process: int
) -> Iterator[list[Worker]]:
    """One worker for each model, its feeds, and the residence of its weights.

    The order of their start alternates, as later processes get other memory.

    Arguments:
        threads: as for `Worker`.
        process: counts the starts.
    """
    started: dict[int, Worker] = {}
    with ExitStack() as stack:
        for i in range(len(models)) if process % 2 == 0 else reversed(range(len(models))):
            path, feeds, residence = models[i]
            started[i] = stack.enter_context(Worker(path, feeds, threads, residence))
        yield [started[i] for i in range(len(models))]


def serve() -> None:
    """Main function of the process: loads a model, then runs it as often as each request says, until input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else prints must not mix with the answers
    onnxruntime.set_default_logger_severity(4)
    questions = sys.stdin.buffer
    try:
        path, feeds, threads, residence, libraries, providers = pickle.load(questions)
        with custom_ops(libraries), runtime.providers(providers):
            session, loaded = _load(path, feeds, threads, residence)
        _send(answers, loaded)
        names, source = [value.name for value in session.get_outputs()], itertools.cycle(feeds)
        while True:
            times = _times(session, names, [next(source) for _ in range(pickle.load(questions))])
            rest()
            _send(answers, times)
    except EOFError:
        return
    except OnnxoptError as error:
        _send(answers, OnnxoptError(str(error)))
    except Exception as error:  # the runtime raises classes of its own
        _send(answers, OnnxoptError(f"does not run: {first_line(error)}"))


def _load(
    path: Path, feeds: list[Feeds], threads: int | None, residence: str
) -> tuple[onnxruntime.InferenceSession, Loaded]:
    options = None
    if threads is not None or residence != LOADED:
        options = session_options()
        options.intra_op_num_threads = threads or 0
    if options is not None and residence != LOADED:
        options.add_session_config_entry(runtime.RESIDENCE, residence)
    gc.collect()
    _forget_peak()
    before = psutil.Process().memory_info().rss
    started = time.perf_counter()
    session = runtime.load(path, options)
    load = time.perf_counter() - started
    names = [value.name for value in session.get_outputs()]
    (first,) = _times(session, names, feeds[:1])
    runs, begun = 0, time.perf_counter()
    while runs < _WARM_UP_RUNS or time.perf_counter() - begun < _WARM_UP:
        session.run(names, feeds[runs % len(feeds)])
        runs += 1
    steady = psutil.Process().memory_info().rss
    peak = max(memory.peak() or 0, steady)  # the system does not update them together
    rest()
    return session, Loaded(load * 1e3, first, runs, max(0, peak - before), max(0, steady - before))


def _times(session: onnxruntime.InferenceSession, names: list[str], feeds: list[Feeds]) -> list[float]:
    times = []
    for one in feeds:
        started = time.perf_counter()
        session.run(names, one)
        times.append((time.perf_counter() - started) * 1e3)
    return times


def rest() -> None:
    """Waits until the runtime's threads sleep: they spin for about 30 ms after a run, which disturbs the next model.

    Spinning stays enabled, as it is the runtime's default.
    """
    deadline = time.perf_counter() + _LONGEST_PAUSE
    while time.perf_counter() < deadline:
        used, started = time.process_time(), time.perf_counter()
        time.sleep(_PAUSE)
        if time.process_time() - used < 0.1 * (time.perf_counter() - started):
            return


def _forget_peak() -> None:
    """Resets the peak, so that imports do not count, if the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _send(pipe: IO[bytes], value: object) -> None:
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()
