"""What became of a strategy: one record, whatever the strategy is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.search.slope import Trial

LayerOutcome = Mapping[str, Any]
"""A layer's row: `path`, `accepted` (whether the strategy changed it), `reason` (why not), and a value for the key of
every column; None where it is not known."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table that shows a strategy's layers."""

    key: str
    """Of the rows."""
    heading: str
    explanation: str


@dataclass(frozen=True, slots=True)
class StrategyReport:
    """What a strategy looked at, what it changed, and why it did not."""

    name: str
    title: str
    about: str
    """What it looked at, and what it did, in a sentence or two."""
    goal: str
    """What was to be saved: size, speed, balanced; empty where the user asked for the form itself."""
    kept: bool
    """Whether the file has it."""
    reason: str
    """Why not; empty where it has."""
    time: SpeedRatio | None
    """The whole model in this form against the model without, before weights are quantized; None where time did not
    count, or there was nothing to compare."""
    trial: Trial | None
    """What the search kept in this form; None where it did not come to a search, or where the form is exact."""
    columns: tuple[Column, ...]
    layers: tuple[LayerOutcome, ...]
    """In the order of the graph."""

    def given_up(self, reason: str) -> StrategyReport:
        """The same, where the file does not have it after all; what was refused keeps its own reason."""
        if not self.kept:
            return self
        rows = tuple({**row, "accepted": False, "reason": row["reason"] or reason} if row["accepted"] else row
                     for row in self.layers)  # fmt: skip
        return replace(self, kept=False, reason=reason, layers=rows)
