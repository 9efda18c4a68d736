"""The files that the search tried."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside

_UNBOUNDED = dict.fromkeys(("max_drop", "target_size", "target_ratio", "error", "metric"))


class Search(Section):
    """A figure of size against loss, and a table."""

    name, title, order = "search", "Search", 10
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where there was a search."""
        return bool(result["trials"])

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The figure needs two files."""
        from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

        bounds = result["bounds"] or _UNBOUNDED
        trials = [{**one, "drop": one["drop"] if one.get("likely") is None else one["likely"]}
                  for one in result["trials"]]  # fmt: skip
        figure = plots.search(trials, result["kept"], bounds, result["bytes_before"]) if len(trials) > 1 else ""
        return {"figure": figure, "first": trials[0], "trials": trials}
