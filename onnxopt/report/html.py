"""Results as one HTML page that opens from disk and needs nothing else. Reads the JSON of a result only."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import floor, isfinite, log10
from pathlib import Path, PurePath
from statistics import median
from typing import Any

from onnxopt.errors import OnnxoptError
from onnxopt.report import classical
from onnxopt.report.table import shortened, size

_SCHEMA = 1
_LONG = 36
"""Letters of a weight's name that the table has room for."""


def read(path: Path) -> dict[str, Any]:
    """What `onnxopt optimize --json` printed into a file. Raises OnnxoptError where that is not what it holds."""
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnnxoptError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or no JSON
        raise OnnxoptError(f"{path}: is no JSON ({error}); expected what `onnxopt optimize --json` prints") from error
    try:
        _check(result)
    except OnnxoptError as error:
        raise OnnxoptError(f"{path}: {error}") from error
    return dict(result)


def render(result: Mapping[str, Any]) -> str:
    """The page of one result, as docs/result.md describes it.

    Raises OnnxoptError where it is of another kind or schema, or a part of it is missing.
    """
    import jinja2  # noqa: PLC0415 (only reports pay for it)

    _check(result)
    try:
        return page("report.html", _view(result))
    except (KeyError, TypeError, ValueError, AttributeError, jinja2.UndefinedError) as error:
        raise OnnxoptError(
            f"the result is not whole: {type(error).__name__} {error}; docs/result.md says what schema {_SCHEMA} holds"
        ) from error


def page(template: str, view: Mapping[str, Any]) -> str:
    """A page of this template, with what it shows."""
    import jinja2  # noqa: PLC0415 (only reports pay for it)

    folder = Path(__file__).with_name("templates")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"size": size, "sig": _significant, "histogram": _histogram, "percent": _percent,
                            "cell": classical.text}  # fmt: skip
    return environment.get_template(template).render(view)


def _check(result: Any) -> None:
    if not isinstance(result, Mapping) or result.get("kind") != "optimize":
        found = repr(result.get("kind")) if isinstance(result, Mapping) else type(result).__name__
        raise OnnxoptError(f"is no result of optimize (kind: {found}); expected what `onnxopt optimize --json` prints")
    if result.get("schema") != _SCHEMA:
        raise OnnxoptError(
            f"is of schema {result.get('schema')!r}, this onnxopt reads schema {_SCHEMA}; make it with this version"
        )


def _view(result: Mapping[str, Any]) -> dict[str, Any]:
    """What the template shows: the result, its layers with what follows from their numbers, and the figures."""
    from onnxopt.report import plots  # noqa: PLC0415 (matplotlib is slow to import)

    layers = [_layer(event, result) for event in result["events"] if event["elements"]]
    chains = result.get("chains") or ()
    searched = {one["path"] for one in (result.get("factoring") or {}).get("layers", ()) if one["accepted"]}
    bounds = result["bounds"] or dict.fromkeys(("max_drop", "target_size", "target_ratio", "error", "metric"))
    promised = [e for e in layers if (e["predicted"] or 0) > 0 and (e["measured"] or 0) > 0]
    ratios = sorted((e["measured"] / e["predicted"], e["path"]) for e in promised)
    compared = _compared(result.get("benchmark"))
    operators = [model["ops"] for model in compared["models"]] if compared else []
    figures = {
        "search": plots.search(result["trials"], result["kept"], bounds, result["bytes_before"])
        if len(result["trials"]) > 1 else "",
        "layers": plots.layers(layers) if layers else "",
        "promises": plots.promises(promised) if promised else "",
        "operators": plots.operators(*operators) if len(operators) == 2 and all(operators) else "",
    }  # fmt: skip
    return {
        "r": result,
        "name": PurePath(result["source"]).name,
        "layers": layers,
        "rest": [e for e in result["events"] if not e["elements"] and e["path"] not in {one["path"] for one in chains}],
        "chains": [one for one in chains if one["path"] not in searched],
        "factoring": result.get("factoring"),
        "integers": result.get("integers"),
        "weights": sum(e["elements"] for e in layers),
        "columns": _columns(layers),
        "most": max((e["bytes_after"] for e in layers), default=1),
        "found": result["check"]["found"] if result["check"] else None,
        "verdict": _verdict(result),
        "figures": figures,
        "kept_promise": {"median": median(r for r, _ in ratios), "worst": ratios[-1]} if ratios else None,
        "benchmark": compared,
        "paper": result.get("table"),
        "stages": result.get("stages") or (),
        "plan": json.dumps(result["plan"], indent=1, ensure_ascii=False),
        "merged": {what: count for what, count in result["cleaned"].items() if count},
    }


def _verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """A class of the style sheet, and a few words."""
    if not result["met"]:
        return "missed", f"✗ Contract missed: {result['contract']}"
    if result["unchanged"]:
        return "plain", "A copy of the source: compressing saves nothing"
    if result["contract"]:
        lossless = ", by keeping every bit" if result["kept"] is None else ""
        return "met", f"✓ Contract met: {result['contract']}{lossless}"
    return "plain", "Plan applied" if result["plan"]["steps"] else "Lossless: every bit kept"


def _layer(event: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, Any]:
    optional = {"macs": None, "sensitivity": None, "histogram": None, "reason": ""}
    path = event["path"]
    return {
        **optional, **event, "name": shortened(path, _LONG),
        "rank": " \N{MULTIPLICATION SIGN} ".join(map(str, event.get("ranks") or ())),
        "bits": 8 * event["bytes_after"] / event["elements"],
        "dims": "\N{MULTIPLICATION SIGN}".join(map(str, event["shape"])) or "1",
        "share": event["bytes_after"] / max(1, result["bytes_after"]),
        "ratio": event["bytes_before"] / max(1, event["bytes_after"]),
        "merged": event["nodes_before"] != event["nodes_after"],
    }  # fmt: skip


_COLUMNS = (
    ("bytes_before", "Before", "Bytes in the source"),
    ("bytes_after", "After", "Bytes in the output"),
    ("ratio", "Ratio", "Before over after"),
    ("bits", "Bits", "Bits in the file for each weight"),
    ("zeros", "Zeros", "Share of the weights that are zero"),
    ("rank", "Rank", "Of the layer that it is a factor of"),
    ("macs", "MACs", "Multiply-accumulates for one input"),
    ("predicted", "Promised", "Noise over signal in the layer's outputs, from statistics"),
    ("measured", "Measured", "The same, on inputs held back"),
    ("sensitivity", "Sensitivity", "What one weight contributes to the power of the model's outputs"),
)
"""Key in a layer, heading, explanation."""


def _columns(layers: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """Those in which some layer has something to show."""
    return [column for column in _COLUMNS if any(e[column[0]] not in (None, "") for e in layers)]


_COMPARED = (
    ("mean_ms", "Latency, mean", "ms"),
    ("median_ms", "Latency, median", "ms"),
    ("p95_ms", "Latency, 95th percentile", "ms"),
    ("load_ms", "Load", "ms"),
    ("first_run_ms", "First run", "ms"),
    ("peak_rss", "Memory at most", "B"),
    ("steady_rss", "Memory, settled", "B"),
    ("energy_mj", "Energy of a run", "mJ"),
    ("macs", "Multiply-accumulates", ""),
    ("parameters", "Parameters", ""),
)
"""Key in a model of a benchmark or its latency, name, unit."""


def _compared(benchmark: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Source and output side by side: the rows that both have figures for, with their ratio where it can be told."""
    if not benchmark or len(benchmark["models"]) < 2:
        return None
    before, after = benchmark["models"][:2]
    first, second = ({**model, **model["latency"]} for model in (before, after))
    paired = next(iter(benchmark.get("paired") or []), None)
    doubtful = set(before["latency"]) if paired and not paired["enough"] else set()
    rows = [(what, unit, first[key], second[key],
             second[key] / first[key] if first[key] and key not in doubtful else None)
            for key, what, unit in _COMPARED
            if first.get(key) is not None and second.get(key) is not None]  # fmt: skip
    throughput = [(a, b) for a in before["throughput"] for b in after["throughput"]
                  if (a["batch"], a["threads"]) == (b["batch"], b["threads"])]  # fmt: skip
    machine = [f"{key.replace('_', ' ')} {_of_machine(key, value)}" for key, value in benchmark["machine"].items()]
    return {"models": (before, after), "rows": rows, "paired": paired, "throughput": throughput, "machine": machine,
            "energy_note": after.get("energy_note") or ""}  # fmt: skip


def _of_machine(key: str, value: Any) -> str:
    if key == "memory":
        return size(value)
    return _significant(value) if isinstance(value, float) else str(value)


def _histogram(counts: Mapping[str, Any]) -> dict[str, Any]:
    """Paths of the outlines, a bin 1 wide, and the count of the highest, which is 100 high; square roots show tails."""
    most = max(1, *counts["before"], *counts["after"])
    paths: dict[str, Any] = {"most": most}
    for key in ("before", "after"):
        levels = groupby(round(100 - 100 * (count / most) ** 0.5) for count in counts[key])
        paths[key] = f"M0 100{''.join(f'V{level}h{len(list(bins))}' for level, bins in levels)}V100"
    return paths


def _significant(value: float | None, digits: int = 3) -> str:
    """A number as people read it: powers of ten for small ones, all digits for large ones; counts are exact."""
    from onnxopt.report.plots import power_of_ten  # noqa: PLC0415 (matplotlib is slow to import)

    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\N{THIN SPACE}")
    if value == 0 or not isfinite(value):
        return f"{value:g}"
    exponent = floor(log10(abs(value)))
    if exponent < -3:
        return power_of_ten(value, digits - 1)
    rounded = float(f"{value:.{digits - 1}e}")
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}".replace(",", "\N{THIN SPACE}")


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f} %"
