"""What took long to measure, kept in files until the run that needs it has ended well."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from onnxopt.leaf import Array


class Cache:
    """Arrays by name in a folder of its own; a run that was killed finds what it had measured.

    Arguments:
        key: identifies everything that the arrays depend on; safe in a file name.
    """

    def __init__(self, key: str) -> None:
        self._folder = _root() / key
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder):
                pass
        except OSError:  # no place to keep anything: then for this run only
            self._folder = Path(tempfile.mkdtemp(prefix="onnxopt-"))

    def get(self, name: str) -> dict[str, Array] | None:
        """What was put under this name; None where nothing was, or where the file is damaged."""
        try:
            with np.load(self._file(name), allow_pickle=False) as stored:
                return dict(stored)
        except (OSError, ValueError, EOFError, BadZipFile):
            return None

    def put(self, name: str, **arrays: npt.ArrayLike) -> None:
        """Keeps arrays, whole or not at all. Raises OSError where the disk is full."""
        temporary = self._file(name).with_suffix(f".{os.getpid()}.tmp.npz")
        try:
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            temporary.replace(self._file(name))
        finally:
            temporary.unlink(missing_ok=True)

    def clear(self) -> None:
        """Forgets everything: the work is done."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _file(self, name: str) -> Path:
        return self._folder / f"{name}.npz"


def _root() -> Path:
    """Where this system keeps what can be computed again."""
    if "XDG_CACHE_HOME" in os.environ:
        return Path(os.environ["XDG_CACHE_HOME"]) / "onnxopt"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", tempfile.gettempdir())) / "onnxopt"
    home = Path("~").expanduser()
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "onnxopt"
