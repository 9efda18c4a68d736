"""The weights of a result, as sections of the page show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.text import shortened

_LONG = 36
"""Characters of a weight's name that the table has room for."""
_OPTIONAL = {"macs": None, "sensitivity": None, "histogram": None, "reason": ""}


def stored_weights(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The events of stored weights, with what follows from their numbers."""
    return [_weight(event, result) for event in result["events"] if event["elements"]]


def _weight(event: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    times = "\N{MULTIPLICATION SIGN}"
    return {
        **_OPTIONAL, **event, "name": shortened(event["path"], _LONG),
        "rank": f" {times} ".join(map(str, event.get("ranks") or ())),
        "bits": 8 * event["bytes_after"] / event["elements"],
        "dims": times.join(map(str, event["shape"])) or "1",
        "share": event["bytes_after"] / max(1, result["bytes_after"]),
        "ratio": event["bytes_before"] / max(1, event["bytes_after"]),
        "merged": event["nodes_before"] != event["nodes_after"],
    }  # fmt: skip
