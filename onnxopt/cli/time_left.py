"""How long a command still takes, from the shares that it has told so far."""

from __future__ import annotations

from collections.abc import Callable
from math import log

UNKNOWN = "-:--"
_STATISTICS, _TRIES, _WRITING = 0.4, 0.5, 0.9
"""Shares of `optimize`: statistics end at the first, tries take parts of the second, and end before the third."""
_REST = 0.8
"""What each try leaves of the share of all tries."""
_COUNT, _TAIL = 5.7, 1.5
"""Tries of a search, and how many tries writing and checking the file take: means over models of images and speech."""
_EARLIEST = 2.0
"""Seconds before which nothing is known."""


class Even:
    """Every share takes as long."""

    def __init__(self) -> None:
        self._began: float | None = None

    def __call__(self, share: float, now: float) -> float | None:
        """Seconds left at the time `now`; None while that is not known."""
        self._began = now if self._began is None else self._began
        passed = now - self._began
        return passed * (1 - share) / share if share > 0 and passed > _EARLIEST else None


class Searching:
    """Statistics, then tries of equal length, then the file."""

    def __init__(self) -> None:
        self._began: float | None = None
        self._search: float | None = None
        self._try = 0.0

    def __call__(self, share: float, now: float) -> float | None:
        """Seconds left at the time `now`; None while that is not known."""
        self._began = now if self._began is None else self._began
        if share < _STATISTICS:  # moments, up to 0.1 or 0.2, then gains; the search takes about as long
            measured = 0.57 + 0.43 * min(1.0, max(0.0, (share - 0.1) / 0.1))
            passed = now - self._began
            return passed / measured * (2 - measured) if share > 0 and passed > _EARLIEST else None
        self._search = now if self._search is None else self._search
        if share >= _WRITING:
            return _TAIL * self._try * (1 - share) / (1 - _WRITING)
        tries = log((_WRITING - share) / _TRIES, _REST)
        if tries > 0.5:
            self._try = (now - self._search) / tries
            return (max(0.4, _COUNT - tries) + _TAIL) * self._try
        return self._search - self._began + _EARLIEST


Left = Callable[[], Callable[[float, float], float | None]]
"""Makes what is told the share that is done and the time, and says how many seconds are left."""
EVEN: Left = Even


def text(seconds: float | None) -> str:
    """In minutes and seconds."""
    return UNKNOWN if seconds is None else f"{round(seconds) // 60}:{round(seconds) % 60:02}"
