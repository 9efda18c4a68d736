"""Maps of files whose pages go back to the system while they are used.

A page of a mapped file counts as memory of the process that has touched it, until the system is short of memory and
takes it. So a model has all of its weights there when it has run once. Pages that were given back come again when they
are touched, from the system's cache of files.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from threading import Event, Lock, Thread
from weakref import WeakSet

MOST = 1 << 28
"""Bytes of files in the memory of this process, from which on pages go back."""
_EVERY = 0.05
"""Seconds."""
_RESIDENT = Path("/proc/self/statm")
"""Its third number is the pages of files. Other systems than Linux do not have it."""
_maps: WeakSet[mmap.mmap] = WeakSet()
_lock = Lock()
_watching = Event()


def give_back(pages: mmap.mmap) -> None:
    """Gives the pages of a map back until they are touched again. Windows takes them when it wants."""
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def watch(pages: mmap.mmap) -> None:
    """Gives the pages of a map back whenever those of files are more than `MOST`, for as long as it lives."""
    if not _RESIDENT.is_file():
        return
    with _lock:
        _maps.add(pages)
        if not _watching.is_set():
            _watching.set()
            Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    while True:
        with _lock:
            maps = list(_maps)
            if not maps:
                _watching.clear()
                return
        if int(_RESIDENT.read_text(encoding="ascii").split()[2]) * mmap.PAGESIZE > MOST:
            for pages in maps:
                give_back(pages)
            del pages
        del maps
        time.sleep(_EVERY)
