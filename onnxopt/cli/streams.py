"""Standard output is for results alone, and signals end a command as errors do."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from onnxopt.errors import OnnxoptError

_ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_STANDARD = (0, 1, 2)


@contextmanager
def signals_interrupt() -> Iterator[list[int]]:
    """Makes the signals that end a process raise KeyboardInterrupt, so that temporary files are removed.

    Yields the numbers of the signals that arrived.
    """
    arrived: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    # A signal that the parent process ignores, as nohup does, stays ignored.
    before = {one: signal.signal(one, interrupt) for one in _ENDING if signal.getsignal(one) == signal.SIG_DFL}
    try:
        yield arrived
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def results_alone() -> Iterator[None]:
    """Keeps standard output for what commands print outside `progress`.

    What child processes and native libraries print to it goes to standard error. Characters that its encoding lacks are
    escaped. Raises OnnxoptError if it cannot be written; a reader that has gone away is no error.
    """
    _fill()
    before, errors = sys.stdout, sys.stderr
    if before is not sys.__stdout__ or errors is not sys.__stderr__ or before is None or errors is None:
        yield  # closed, or a program that calls `main` prints elsewhere
        return
    before.flush()
    descriptor = os.dup(before.fileno())
    buffered = io.BufferedWriter(_Results(descriptor, "w"))
    sys.stdout = io.TextIOWrapper(buffered, before.encoding, "backslashreplace", line_buffering=before.isatty())
    os.dup2(errors.fileno(), before.fileno())
    try:
        yield
    finally:
        results, sys.stdout = sys.stdout, errors  # functions of atexit print to standard error, too
        results.flush()


class _Results(io.FileIO):
    """A file that is given up at its first error."""

    _broken = False

    def write(self, data: Any) -> int:
        """See `io.FileIO`. Raises OnnxoptError at the first error, unless nobody reads the file any more."""
        try:
            if not self._broken:
                return super().write(data)
        except OSError as error:
            self._broken = True
            if not isinstance(error, BrokenPipeError):
                raise OnnxoptError(f"standard output cannot be written: {error.strerror}") from error
        return memoryview(data).nbytes


def say(text: str) -> None:
    """Prints one line to standard error; whatever would break the line or control the terminal is escaped."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    with suppress(OSError):  # nobody reads it
        print(line, file=sys.stderr, flush=True)


def _fill() -> None:
    """Opens the standard descriptors that the caller closed, or files would get their numbers and what is printed."""
    for descriptor in _STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, io.StringIO())
