"""The steps of a run as JSON Lines, for programs that watch it: `--log-json`; see docs/pipelines.md."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from onnxopt.errors import OnnxoptError
from onnxopt.files import writing
from onnxopt.measure import memory

_ERRORS = Path("-")
"""Stands for standard error."""
_SHARE = 0.01
"""Change of the share that is an event, too."""


class EventLog:
    """Events of one run, written as they happen."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file, self._started = file, time.monotonic()
        self._phase, self._share = "", 0.0

    @classmethod
    @contextmanager
    def opened(cls, path: Path | None) -> Iterator[EventLog]:
        """A log at the end of a file, or on standard error; one that writes nothing, without a path.

        Raises OnnxoptError if the file cannot be written, or is read in this context.
        """
        if path is None or path == _ERRORS:
            yield cls(None if path is None else sys.stderr)
            return
        with writing({"--log-json": path}), path.open("a", encoding="utf-8") as file:
            yield cls(file)

    def step(self, phase: str, share: float) -> None:
        """What is being done, and the share of the run that is done; an event unless it is about the last one."""
        if phase != self._phase or abs(share - self._share) >= _SHARE:
            self._phase, self._share = phase, share
            self._write({"phase": phase, "share": round(share, 4)})

    def end(self, size: int) -> None:
        """The last event: the file is written, and has so many bytes."""
        self._write({"phase": "done", "share": 1.0, "bytes": size})

    def _write(self, event: dict[str, Any]) -> None:
        """Raises OnnxoptError if the file cannot be written: whoever reads a pipe may have gone away."""
        if self._file is None:
            return
        seconds = round(time.monotonic() - self._started, 3)
        try:
            print(json.dumps({"seconds": seconds, **event, "peak_memory": memory.peak()}), file=self._file, flush=True)
        except OSError as error:
            raise OnnxoptError(f"--log-json: cannot be written: {error.strerror}") from error
