"""How much time a run may take for a smaller file."""

from __future__ import annotations

from enum import StrEnum


class Effort(StrEnum):
    """What is spent on statistics and on the search. The finished file is checked against the contract all the same."""

    FAST = "fast"
    """A part of the samples, and few trials, at slopes that the statistics predict."""
    DEFAULT = "default"
    BEST = "best"
    """Weights also make up for the noise of the layers before them, which takes a walk through the model in every
    trial."""
