"""Energy from the processor's counters (RAPL), if they exist and may be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from onnxopt.errors import OnnxoptError

_IDLE = 1.0
"""Seconds over which idle power is measured."""
_COUNTERS = Path("/sys/class/powercap")


class Rapl:
    """The counters of all processor packages.

    Raises OnnxoptError if there are none or they may not be read; its text is the reason.
    """

    def __init__(self, root: Path = _COUNTERS) -> None:
        # intel-rapl:0 is a package (on AMD too); intel-rapl:0:1 is a part of it, so it would count twice.
        self._zones = sorted(zone for zone in root.glob("intel-rapl:*") if zone.name.count(":") == 1)
        if not self._zones:
            raise OnnxoptError(f"there are no counters {root}/intel-rapl*")
        try:
            self._wraps = [int((zone / "max_energy_range_uj").read_text()) + 1 for zone in self._zones]
            self._read()
        except (OSError, ValueError) as error:
            raise OnnxoptError(f"the counters {root}/intel-rapl* may not be read; root may") from error

    def spent(self, work: Callable[[], object]) -> tuple[float, float]:
        """Joules and seconds that `work` takes."""
        before, started = self._read(), time.monotonic()
        work()
        seconds, after = time.monotonic() - started, self._read()
        return sum((b - a) % wrap for a, b, wrap in zip(before, after, self._wraps, strict=True)) / 1e6, seconds

    def above_idle(self, work: Callable[[], object]) -> float:
        """Joules that `work` takes above the idle energy of the same time."""
        idle, idle_seconds = self.spent(lambda: time.sleep(_IDLE))
        joules, seconds = self.spent(work)
        return joules - idle / idle_seconds * seconds

    def _read(self) -> list[int]:
        return [int((zone / "energy_uj").read_text()) for zone in self._zones]
