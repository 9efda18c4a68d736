"""Every weight in a figure, and how well its noise was predicted."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

from onnxopt.report.sections.base import Section, beside
from onnxopt.report.weights import stored_weights


class Layers(Section):
    """Bytes, bits, zeros and sensitivity by weight; measured against predicted noise."""

    name, title, order = "layers", "Layer by layer", 20
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where weights were stored."""
        return bool(stored_weights(result))

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """The figure of predictions needs weights with both numbers."""
        from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

        weights = stored_weights(result)
        predicted = [one for one in weights if (one["predicted"] or 0) > 0 and (one["measured"] or 0) > 0]
        ratios = sorted((one["measured"] / one["predicted"], one["path"]) for one in predicted)
        return {
            "weights": weights,
            "elements": sum(one["elements"] for one in weights),
            "figure": plots.layers(weights),
            "predictions": plots.predictions(predicted) if predicted else "",
            "median": median(ratio for ratio, _ in ratios) if ratios else None,
            "worst": ratios[-1] if ratios else None,
        }
