"""Folders of the cache that a running process has, and those that killed ones have left."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

from onnxopt.files.places import cache_folder

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

OF_ONE_RUN = "weights-"
"""Prefix of folders that no later run goes on from."""
_KEPT, _OF_ONE_RUN_KEPT = 7 * 24 * 3600, 60
"""Seconds after which the files of a failed run are deleted. Those of one run may take gigabytes."""


def forget_old() -> None:
    """Deletes what failed runs have left in the cache: folders with a file `lock` that nobody has."""
    with suppress(OSError):
        for lock in cache_folder().glob("*/lock"):
            kept = _OF_ONE_RUN_KEPT if lock.parent.name.startswith(OF_ONE_RUN) else _KEPT
            if time.time() - lock.stat().st_mtime > kept:
                with suppress(OSError), locked(lock):
                    shutil.rmtree(lock.parent, ignore_errors=True)


def locked(path: Path) -> IO[bytes]:
    """A file that is locked until it is closed or this process ends. Raises OSError if another process has it."""
    file = path.open("wb")
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists():
            raise FileNotFoundError(path)  # the run that had it has deleted it meanwhile
    except OSError:
        file.close()
        raise
    return file
