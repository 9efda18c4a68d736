"""What `--for` asks a strategy to save."""

from __future__ import annotations

from enum import StrEnum


class Goal(StrEnum):
    """What another form of a layer has to save."""

    SIZE = "size"
    SPEED = "speed"
    BALANCED = "balanced"

    @property
    def timed(self) -> bool:
        """Whether milliseconds count."""
        return self is not Goal.SIZE

    @property
    def weighed(self) -> bool:
        """Whether bytes count."""
        return self is not Goal.SPEED
