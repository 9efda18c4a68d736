"""A section of the HTML page: the number of steps by pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section


class Toy(Section):
    """How often the plan names each pass."""

    name, title, order = "toy", "Toy section", 45
    template = "<p>{% for name, count in counts.items() %}{{ count }} by {{ name }}. {% endfor %}</p>"

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where the plan has steps."""
        return bool(result["plan"]["steps"])

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Counts by the pass's name."""
        return {"counts": Counter(step.partition("{")[0] for step in result["plan"]["steps"].values())}
