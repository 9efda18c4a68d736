"""Measurements that take long, kept in files until the run that needs them succeeds."""

from __future__ import annotations

import secrets
import shutil
import tempfile
from pathlib import Path
from threading import Lock
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from onnxopt.encoding import Array
from onnxopt.files import Mapped, cache_folder
from onnxopt.files.claims import forget_old, locked

_IN_MEMORY = 2**25
"""Bytes of arrays that are kept in memory as well."""


class Cache:
    """Arrays by name in one folder; the next run after one that was killed finds them.

    A second run at the same time gets a temporary folder, as the first to end deletes its files.

    Arguments:
        key: identifies everything that the arrays depend on; safe in a file name.
    """

    def __init__(self, key: str) -> None:
        self._kept: dict[str, dict[str, Array]] = {}
        self._alone = Lock()
        self._folder, self._shared = cache_folder() / key, True
        forget_old()
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self._folder / "lock")
        except OSError:  # no writable folder, or another run has it: a folder for this run only
            self._folder, self._shared = Path(tempfile.mkdtemp(prefix="onnxopt-")), False
            self._lock = locked(self._folder / "lock")

    def __str__(self) -> str:
        return str(self._folder)

    def __reduce__(self) -> tuple[object, ...]:
        return _elsewhere, (self._folder,)

    def __contains__(self, name: str) -> bool:
        """Whether there are undamaged arrays under this name."""
        try:
            with np.load(self._file(name), allow_pickle=False):
                return True
        except (OSError, ValueError, EOFError, BadZipFile):
            return False

    def get(self, name: str) -> dict[str, Array] | None:
        """The arrays under this name, read-only; None if there are none, or the file is damaged."""
        with self._alone:
            if name in self._kept and self._file(name).exists():
                return dict(self._kept[name])
        try:
            with np.load(self._file(name), allow_pickle=False) as stored:
                arrays = dict(stored)
        except (OSError, ValueError, EOFError, BadZipFile):
            return None
        self._remember(name, arrays)
        return dict(arrays)

    def put(self, name: str, **arrays: npt.ArrayLike) -> None:
        """Stores arrays atomically. Raises OSError if the disk is full."""
        with self._alone:
            self._kept.pop(name, None)
        temporary = self._file(name).with_suffix(f".{secrets.token_hex(4)}.tmp.npz")
        try:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            temporary.replace(self._file(name))
        finally:
            temporary.unlink(missing_ok=True)

    def mapped(self, array: Array) -> Mapped:
        """A copy of an array in a file of this folder. Raises OSError if the disk is full."""
        return Mapped(array, self._folder)

    def close(self, keep: bool) -> None:
        """Releases the folder, and deletes it unless `keep`."""
        self._lock.close()
        if not (keep and self._shared):
            shutil.rmtree(self._folder, ignore_errors=True)

    def _remember(self, name: str, arrays: dict[str, Array]) -> None:
        """Keeps arrays in memory while there is room, as gradients of every batch ask for the same.

        They ask in turns, so if the oldest gave way, it would be the one that is asked for next.
        """
        for array in arrays.values():
            array.setflags(write=False)
        size = sum(array.nbytes for array in arrays.values())
        with self._alone:
            if size + sum(array.nbytes for kept in self._kept.values() for array in kept.values()) <= _IN_MEMORY:
                self._kept[name] = arrays

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def _elsewhere(folder: Path) -> Cache:
    """A cache that another process has open, which reads and writes the same files."""
    cache = Cache.__new__(Cache)
    cache._kept, cache._alone, cache._folder = {}, Lock(), folder
    return cache
