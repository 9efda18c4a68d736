"""What the recipe's paper shows, of this network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside


class Paper(Section):
    """The paper's table, and the file after each step of the recipe."""

    name, title, order = "paper", "As in the paper", 60
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where the recipe names a table."""
        return bool(result.get("table"))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The table, and the stages where there are several."""
        return {
            "paper": result["table"],
            "stages": result.get("stages") or (),
            "found": result["check"]["found"] if result["check"] else None,
        }
