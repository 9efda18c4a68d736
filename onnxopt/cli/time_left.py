"""How long a command still takes, from the shares that it has told so far."""

from __future__ import annotations

UNKNOWN = "-:--"
_EARLIEST = 0.01
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


def text(seconds: float | None) -> str:
    """In minutes and seconds."""
    return UNKNOWN if seconds is None else f"{round(seconds) // 60}:{round(seconds) % 60:02}"
