"""What tools that write tables into documents share: the tables, the markers, and the machine's name for captions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path

from onnxopt.measure.benchmark.machine import cpu

END = "<!-- /table -->"


def rewrite(document: Path, text: str, opening: str, closing: str = END) -> None:
    """Puts `text` between `opening` and `closing`. Raises ValueError where the document has not both."""
    content = document.read_text(encoding="utf-8")
    head, start, rest = content.partition(opening)
    _, end, tail = rest.partition(closing)
    if not (start and end):
        raise ValueError(f"{document}: has no lines {opening} and {closing}")
    document.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def markdown(columns: Sequence[str], align: str, rows: Iterable[Sequence[str]]) -> str:
    """A table; `align` has an l or r for each column: texts are on the left, numbers on the right."""
    rules = [{"l": "---", "r": "---:"}[side] for _, side in zip(columns, align, strict=True)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows))


def machine() -> str:
    """The processor, its cores, the system."""
    return f"{cpu()}, {os.cpu_count()} cores, {platform.system()}"
