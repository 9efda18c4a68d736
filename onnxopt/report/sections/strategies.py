"""What strategies did: each has a table, whose columns it chooses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside
from onnxopt.report.strategies import cell, filled_columns


class Strategies(Section):
    """A part for each strategy that was tried."""

    name, title, order = "strategies", "Strategies", 50
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where any was tried."""
        return bool(result.get("strategies"))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Their records; a column is of words where no row has a number in it."""
        strategies = [{**one, "columns": filled_columns(one)} for one in result["strategies"]]
        words = {
            (one["name"], key)
            for one in strategies
            for key, _, _ in one["columns"]
            if all(isinstance(cell(row, key), str) for row in one["layers"])
        }
        return {"strategies": strategies, "words": words, "value_of": cell}
