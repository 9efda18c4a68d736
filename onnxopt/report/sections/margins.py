"""How sure the contract on the metric is: the samples' leads against the noise."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside


class Margins(Section):
    """A histogram of leads, and what is promised."""

    name, title, order = "margins", "How sure the contract is", 15
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where something is promised of the metric."""
        return bool(result.get("promised"))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The figure needs leads."""
        from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

        found = result["check"]["found"]
        leads = found.get("margins")
        noisy = leads is not None and leads["noise"] > 0
        return {"figure": plots.margins(leads) if noisy else "", "leads": leads, "found": found}
