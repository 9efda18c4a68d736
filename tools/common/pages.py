"""Pages with generated tables: Markdown, markers, and the machine's name for captions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnxopt.measure.benchmark.machine import cpu

ROOT = Path(__file__).resolve().parents[2]
"""Of the repository."""


def rewrite(page: Path, text: str, opening: str, closing: str) -> None:
    """Puts `text` between the lines `opening` and `closing`. Raises ValueError where the page lacks one of them."""
    content = page.read_text(encoding="utf-8")
    head, start, rest = content.partition(opening)
    _, end, tail = rest.partition(closing)
    if not (start and end):
        raise ValueError(f"{page}: has no lines {opening} and {closing}")
    page.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def markdown(columns: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; `align` has an l or r for each column: text is left-aligned, numbers are right-aligned."""
    rules = [{"l": "---", "r": "---:"}[side] for _, side in zip(columns, align, strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows))


def machine() -> str:
    """The processor, its cores, the system."""
    return f"{cpu()}, {os.cpu_count()} cores, {platform.system()}"
