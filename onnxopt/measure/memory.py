"""How much memory this process takes."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import psutil


def peak() -> int | None:
    """Bytes of RAM that the process has held at most so far; None where the system does not say.

    Where Linux tells, not from `getrusage`: that counts what the parent held when it forked.
    """
    with suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    with suppress(ImportError):
        import resource  # noqa: PLC0415 (not on Windows)

        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else 1024 * most
    return getattr(psutil.Process().memory_info(), "peak_wset", None)
