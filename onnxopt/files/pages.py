"""Maps of files whose pages go back to the system while they are used.

A page of a mapped file counts as memory of the process that has touched it, until the system is short of memory and
takes it. So a model has all of its weights there when it has run once. Pages that were given back come again when they
are touched, from the system's cache of files.
"""

from __future__ import annotations

import mmap
import time
from pathlib import Path
from threading import Thread
from weakref import ReferenceType, ref

MOST = 1 << 28
"""Bytes of files in the memory of this process, from which on pages go back."""
_EVERY = 0.05
"""Seconds."""
_RESIDENT = Path("/proc/self/statm")
"""Its third number is the pages of files. Other systems than Linux do not have it."""


def give_back(pages: mmap.mmap) -> None:
    """Gives the pages of a map back until they are touched again. Windows takes them when it wants."""
    if hasattr(mmap, "MADV_DONTNEED"):
        pages.madvise(mmap.MADV_DONTNEED)


def watch(pages: mmap.mmap) -> None:
    """Gives the pages of a large map back whenever those of files are more than `MOST`, for as long as it lives."""
    if len(pages) > MOST and _RESIDENT.is_file():
        Thread(target=_watch, args=(ref(pages),), daemon=True).start()


def _watch(of: ReferenceType[mmap.mmap]) -> None:
    while (pages := of()) is not None:
        if int(_RESIDENT.read_text(encoding="ascii").split()[2]) * mmap.PAGESIZE > MOST:
            give_back(pages)
        del pages
        time.sleep(_EVERY)
