"""Speed and memory of source and output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from onnxopt.report.pages import significant
from onnxopt.report.sections.base import Section, beside
from onnxopt.report.text import size

_FIGURES = (
    ("mean_ms", "Latency, mean", "ms"),
    ("median_ms", "Latency, median", "ms"),
    ("p95_ms", "Latency, 95th percentile", "ms"),
    ("load_ms", "Load", "ms"),
    ("first_run_ms", "First run", "ms"),
    ("peak_rss", "Peak memory", "B"),
    ("steady_rss", "Steady memory", "B"),
    ("energy_mj", "Energy of a run", "mJ"),
    ("macs", "Multiply-accumulates", ""),
    ("parameters", "Parameters", ""),
)
"""Key of a model of a benchmark or of its latency, name, unit."""


class Speed(Section):
    """A benchmark of both, side by side."""

    name, title, order = "speed", "Speed and memory", 70
    template = beside(__file__)

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Where both were measured."""
        return len((result.get("benchmark") or {}).get("models", ())) > 1

    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """Figures that both have, with their ratio where enough processes make it certain."""
        from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

        benchmark = result["benchmark"]
        before, after = benchmark["models"][:2]
        return {
            "rows": _rows(benchmark),
            "throughput": [(a, b) for a in before["throughput"] for b in after["throughput"]
                           if (a["batch"], a["threads"]) == (b["batch"], b["threads"])],
            "machine": [f"{key.replace('_', ' ')} {_machine(key, value)}"
                        for key, value in benchmark["machine"].items()],
            "energy_note": after.get("energy_note") or "",
            "figure": plots.operators(before["ops"], after["ops"]) if before["ops"] and after["ops"] else "",
        }  # fmt: skip


def _rows(benchmark: Mapping[str, Any]) -> list[tuple[str, str, Any, Any, float | None]]:
    before, after = benchmark["models"][:2]
    first, second = ({**model, **model["latency"]} for model in (before, after))
    paired = next(iter(benchmark.get("paired") or []), None)
    uncertain = set(before["latency"]) if paired and not paired["enough"] else set()
    return [(what, unit, first[key], second[key],
             second[key] / first[key] if first[key] and key not in uncertain else None)
            for key, what, unit in _FIGURES
            if first.get(key) is not None and second.get(key) is not None]  # fmt: skip


def _machine(key: str, value: Any) -> str:
    if key == "memory":
        return size(value)
    return significant(value) if isinstance(value, float) else str(value)
