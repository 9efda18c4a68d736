"""Bytes that wait on the disk until they are written to where they belong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Lock

from onnxopt.errors import OnnxoptError


class Spool:
    """A file without a name, which goes with the last reference to what was put there.

    Arguments:
        folder: where the file is.

    Raises OnnxoptError if it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, Lock()
        try:
            # It lives as long as this.
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        except OSError as error:
            raise self._fault(error) from error

    def put(self, data: bytes) -> Callable[[], bytes]:
        """Writes bytes, and gives a function that reads them. Any thread may call it.

        Raises OnnxoptError if the disk is full.
        """
        with self._lock:
            try:
                at = self._file.seek(0, 2)
                self._file.write(data)
            except OSError as error:
                raise self._fault(error) from error
        return partial(self._read, at, len(data))

    def _read(self, at: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)

    def _fault(self, error: OSError) -> OnnxoptError:
        return OnnxoptError(f"{self._folder}: compressed weights cannot be kept here: {error.strerror or error}; "
                            "XDG_CACHE_HOME names another place for them")  # fmt: skip
