"""Every weight in a table, with its histogram and its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.sections.base import Section, beside
from onnxopt.report.weights import stored_weights

_COLUMNS = (
    ("bytes_before", "Before", "Bytes in the source"),
    ("bytes_after", "After", "Bytes in the output"),
    ("ratio", "Ratio", "Before over after"),
    ("bits", "Bits", "Bits in the file for each element"),
    ("zeros", "Zeros", "Share of the elements that are zero"),
    ("rank", "Rank", "Of the factorised layer that it is a factor of"),
    ("macs", "MACs", "Multiply-accumulates for one input"),
    ("predicted", "Predicted", "Noise over signal in the layer's outputs, predicted from statistics"),
    ("measured", "Measured", "The same, on inputs held back"),
    ("sensitivity", "Sensitivity", "What one element contributes to the power of the model's outputs"),
)
"""Key of a weight, heading, explanation."""


class AllWeights(Section):
    """A row for each weight, which opens."""

    name, title, order = "table", "All weights", 30
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where weights were stored."""
        return bool(stored_weights(result))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Only columns in which some weight has something to show."""
        weights = stored_weights(result)
        factorised = {layer["path"] for layer in result.get("chains") or ()}
        return {
            "weights": weights,
            "columns": [column for column in _COLUMNS if any(one[column[0]] not in (None, "") for one in weights)],
            "most": max(one["bytes_after"] for one in weights),
            "rest": [one for one in result["events"] if not one["elements"] and one["path"] not in factorised],
            "cleaned": {what: count for what, count in result["cleaned"].items() if count},
        }
