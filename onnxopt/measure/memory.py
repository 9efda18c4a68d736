"""Memory use of this process."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil


def peak() -> int | None:
    """Peak memory (RSS) of this process so far, in bytes; None if the system does not report it.

    On Linux it is read from /proc: `getrusage` includes the memory of the parent when it forked.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    with suppress(ImportError):
        import resource  # noqa: PLC0415 (not on Windows)

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return getattr(psutil.Process().memory_info(), "peak_wset", None)
