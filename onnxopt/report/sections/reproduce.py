"""How to get the same file again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside


class Reproduce(Section):
    """The command, digests, versions and the plan."""

    name, title, order = "again", "Reproduce", 90
    template = beside(__file__)

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The plan as `onnxopt apply` reads it."""
        return {"plan": json.dumps(result["plan"], indent=1, ensure_ascii=False)}
