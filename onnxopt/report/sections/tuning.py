"""How weights were trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside


class TuningCurve(Section):
    """A figure of bytes and loss over passes, and a table."""

    name, title, order = "tuning", "Fine-tuning", 15
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where weights were trained."""
        return bool(result.get("tuning"))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The drop, where the contract bounds one; else the noise."""
        from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

        drop = all(one["drop"] is not None for one in result["tuning"])
        figure = plots.tuning(result["tuning"], "drop" if drop else "error")
        return {"figure": figure, "drop": drop, "seconds": round(result["seconds"])}
