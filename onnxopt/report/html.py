"""Results as one HTML page that opens from disk and needs nothing else. It reads only the JSON of a result."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from onnxopt.errors import OnnxoptError
from onnxopt.files import read_text
from onnxopt.report.json import plain
from onnxopt.report.pages import fragment, page
from onnxopt.report.sections import SECTIONS
from onnxopt.report.story import story
from onnxopt.results.result import Result
from onnxopt.spec.documents import parse_json

_SCHEMA = 2


def read(path: Path) -> dict[str, Any]:
    """What `onnxopt optimize --json` printed, from a file. Raises OnnxoptError where the file holds something else."""
    text = read_text(path)
    try:
        result = parse_json(text)
    except ValueError as error:
        raise OnnxoptError(f"{path}: is no JSON ({error}); expected what `onnxopt optimize --json` prints") from error
    try:
        _check(result)
    except OnnxoptError as error:
        raise OnnxoptError(f"{path}: {error}") from error
    return dict(result)


def of(result: Result) -> str:
    """The page of a result."""
    return render(plain(result))


def render(result: Mapping[str, Any]) -> str:
    """The page of one result, which docs/result.md describes.

    Raises OnnxoptError where it is of another kind or schema, or a part of it is missing.
    """
    import jinja2  # noqa: PLC0415 (only reports pay for it)

    _check(result)
    try:
        sections = [
            {
                "name": section.name,
                "title": section.title,
                "body": fragment(section.template, {"r": result, **section.view(result)}),
            }
            for section in SECTIONS
            if section.applies(result)
        ]
        return page("report.html", {**_header(result), "sections": sections})
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, jinja2.UndefinedError) as error:
        raise OnnxoptError(
            f"the result is not whole: {type(error).__name__} {error}; docs/result.md says what schema {_SCHEMA} holds"
        ) from error


def _check(result: Any) -> None:
    if not isinstance(result, Mapping) or result.get("kind") != "optimize":
        found = repr(result.get("kind")) if isinstance(result, Mapping) else type(result).__name__
        raise OnnxoptError(f"is no result of optimize (kind: {found}); expected what `onnxopt optimize --json` prints")
    if result.get("schema") != _SCHEMA:
        raise OnnxoptError(
            f"is of schema {result.get('schema')!r}, this onnxopt reads schema {_SCHEMA}; make it with this version"
        )


def _header(result: Mapping[str, Any]) -> dict[str, Any]:
    benchmark = result.get("benchmark") or {}
    return {
        "r": result,
        "name": PurePath(result["source"]).name,
        "found": result["check"]["found"] if result["check"] else None,
        "verdict": _verdict(result),
        "story": story(result),
        "latencies": [model["latency"] for model in benchmark.get("models", ())],
        "paired": next(iter(benchmark.get("paired") or []), None),
    }


def _verdict(result: Mapping[str, Any]) -> tuple[str, str]:
    """A class of the style sheet, and a few words."""
    if not result["met"]:
        return "missed", f"✗ Contract missed: {result['contract']}"
    if result["unchanged"]:
        failed = "compression" in (result.get("left_out") or {})
        why = "no other file is the same model" if failed else "compressing saves nothing"
        return "plain", f"A copy of the source: {why}"
    if result["contract"]:
        lossless = ", by keeping every bit" if result["kept"] is None else ""
        return "met", f"✓ Contract met: {result['contract']}{lossless}"
    return "plain", "Plan applied" if result["plan"]["steps"] else "Lossless: every bit kept"
