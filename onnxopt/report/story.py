"""What happened, in words: what was asked, what was given up for it, and what to try next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from onnxopt.report.text import size

Found = Mapping[str, Any]
"""A result, as docs/result.md describes it."""

_SMALL = 0.3
"""Of the bound: noise below it leaves room."""


def story(result: Found) -> list[tuple[str, str]]:
    """A heading and a sentence or two for each of the three."""
    return [("Asked", _asked(result)), ("Given up", _given_up(result)), ("Next", " ".join(_next(result)))]


def _asked(result: Found) -> str:
    name, before = PurePath(result["source"]).name, size(result["bytes_before"])
    data = f"calibrated on {result['calibrated']}" if result["calibrated"] else "without calibration"
    what = result["contract"] or ("what the plan says" if result["plan"]["steps"] else "every bit kept")
    if recipe := result.get("recipe"):
        what = f"the recipe {recipe}{', ' if result['contract'] else ''}{result['contract']}"
    aim = "as exact as possible" if _sized(result) else "as small as possible"
    return f"{name}, {before}, {aim}: {what}; {data}."


def _sized(result: Found) -> bool:
    """Whether the size of the file was asked for."""
    bounds = result["bounds"] or {}
    return bounds.get("target_size") is not None or bounds.get("target_ratio") is not None


def _given_up(result: Found) -> str:
    if result["unchanged"]:
        return "Nothing: the output is a copy of the source."
    if not result["plan"]["steps"]:
        return "Nothing: every weight is as it was, to the bit."
    found: Any = (result["check"] or {}).get("found")
    parts = []
    if found and found["drop"] is not None:
        metric = result["bounds"]["metric"] if result["bounds"] else "the metric"
        parts.append(f"{metric} went from {found['before']:.4g} to {found['after']:.4g}")
    if found and found["error"] is not None:
        noise = f"carry noise of {found['error']:.2g} of their size" if found["error"] else "are the same"
        parts.append(f"the outputs {noise}")
    if found and found["agreement"] is not None:
        parts.append(f"{100 * found['agreement']:.4g} % of the labels are the same")
    if not parts:
        return f"Not measured: {result['not_checked'] or 'the outputs show no numbers'}."
    return f"On {found['samples']} samples, {', and '.join(parts)}."


def _next(result: Found) -> Iterator[str]:
    """Advice that fits, the most useful first, two at most."""
    advice = list(_advice(result))
    yield from advice[:2]


def _advice(result: Found) -> Iterator[str]:
    bounds, found = result["bounds"], (result["check"] or {}).get("found")
    if not result["met"]:
        yield "The contract is missed: loosen it, give more --data, or try --effort best."
    if result["left_out"]:
        yield f"{next(iter(result['left_out']))} was left out; the reason is below."
    if not result["calibrated"] or result["rests_on"]:
        smaller = "" if _sized(result) else ", and as a rule the file is smaller"
        yield f"Give a few hundred real inputs with --data: then figures hold for such inputs{smaller}."
    elif not bounds or bounds["max_drop"] is None:
        yield "With labels in --data, --max-drop says what may be lost in the unit that counts for you."
    elif found and found["drop"] is not None and found["drop"] < _SMALL * bounds["max_drop"] and result["promised"]:
        yield "More labelled samples make the promise surer, and so allow a smaller file."
    if result["benchmark"] is None and not result["unchanged"]:
        yield "`onnxopt benchmark` compares speed and memory; --for speed runs layers in INT8."
    yield "Check the file on data of your own: `onnxopt evaluate` tests for a difference."
