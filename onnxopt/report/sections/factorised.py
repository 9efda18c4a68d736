"""Layers that rules factorised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside


class Factorised(Section):
    """Weights and multiply-accumulates of each layer, before and after."""

    name, title, order = "factorised", "Factorised layers", 40
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where rules factorised a layer. The section of strategies has those that a strategy factorised."""
        return bool(_by_rules(result))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The layers, in the order in which they were factorised."""
        return {"layers": _by_rules(result)}


def _by_rules(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    strategies = result.get("strategies") or ()
    searched = {row["path"] for one in strategies for row in one["layers"] if row["accepted"]}
    return [layer for layer in result.get("chains") or () if layer["path"] not in searched]
