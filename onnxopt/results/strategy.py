"""The report of a strategy, in one format for all strategies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.search.slope import Trial

LayerOutcome = Mapping[str, Any]
"""The row of a layer: `path`, `accepted` (whether the strategy changed it), `reason` (why not), and a value for the key
of every column; None for unknown values."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a strategy's layer table."""

    key: str
    """Key of this column's values in the rows."""
    heading: str
    explanation: str


@dataclass(frozen=True, slots=True)
class StrategyReport:
    """What a strategy examined, what it changed, or why it changed nothing."""

    name: str
    title: str
    about: str
    """One or two sentences: what was examined and what was done."""
    goal: str
    """The goal: size, speed or balanced; empty if the user asked for the strategy directly."""
    kept: bool
    """Whether the file uses the strategy."""
    reason: str
    """Why the file does not use it; empty if it does."""
    time: SpeedRatio | None
    """Time of the whole model with and without the strategy, before weight quantization; None if time did not count or
    there was nothing to compare."""
    trial: Trial | None
    """The trial that the search kept with the strategy; None if there was no search or the strategy is exact."""
    columns: tuple[Column, ...]
    layers: tuple[LayerOutcome, ...]
    """Rows of the layers, in graph order."""

    def given_up(self, reason: str) -> StrategyReport:
        """This report for a file that does not use the strategy after all. Refused layers keep their own reasons."""
        if not self.kept:
            return self
        rows = tuple({**row, "accepted": False, "reason": row["reason"] or reason} if row["accepted"] else row
                     for row in self.layers)  # fmt: skip
        return replace(self, kept=False, reason=reason, layers=rows)
