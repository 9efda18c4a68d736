"""A transformer, a detector and a decoder beside the runtime's own quantizers, in short.

Nothing is measured here: the numbers are those of the tables in docs/transformers.md and docs/text.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from common.pages import ROOT, markdown
from tables import CannotMeasureError, Scope, Table

MODELS = ("all-MiniLM-L6-v2", "nudenet-320n")
"""Of docs/transformers.md."""
DECODER, OURS = "SmolLM2-135M: language model", "**onnxopt `--data --error 0.05`**"
"""The model of the table in docs/text.md, and the row of the default bound."""
TOOLS = ("`quantize_dynamic`", "MatMulNBits, 4 bits", "MatMulNBits, 8 bits")
Line = dict[str, str]


@dataclass(frozen=True, slots=True)
class Row:
    """A model."""

    name: str
    size: str
    answers: str
    """What the shares in cells are of."""
    cells: tuple[str, ...]
    """By tool, onnxopt last."""


def lines(page: str, table: str) -> Iterator[Line]:
    """The rows of a page's table, by heading; of equal headings, the first.

    Raises CannotMeasureError where the page has no such table.
    """
    _, found, rest = (ROOT / page).read_text(encoding="utf-8").partition(f"<!-- table:{table} -->\n")
    rows = [line.strip("| ").split(" | ") for line in rest.partition("\n\n")[0].splitlines() if line.startswith("|")]
    if not found or not rows:
        raise CannotMeasureError(f"{page}: has no table {table}")
    for row in rows[2:]:
        yield dict(zip(reversed(rows[0][: len(row)]), reversed(row), strict=True))


def _rows() -> Iterator[Row]:
    beside = list(lines("docs/transformers.md", "transformers-beside"))
    for one in lines("docs/transformers.md", "transformers"):
        name = one["model"].partition(":")[0]
        if name not in MODELS:
            continue
        others = {line["other tool"]: _cell(line["its ratio"], line["answers"], line["noise"])
                  for line in beside if line["model"] == name}  # fmt: skip
        ours = _cell(one["ratio"], one["answers that stay"], one["noise"])
        answers = one["measured on"].partition(": ")[2]
        yield Row(one["model"], one["source"], answers, (*(others.get(tool, "-") for tool in TOOLS), ours))
    files = {line["file"]: line for line in lines("docs/text.md", "decoder")}
    cells = (
        _cell(line["ratio"], f"{float(line['next token stays, %']):.0f} %", line["noise"])
        for line in (files[name] for name in (*TOOLS, OURS))
    )
    yield Row(DECODER, f"{files['original']['MB']} MB", "next tokens", tuple(cells))


def _cell(ratio: str, same: str, noise: str) -> str:
    return f"**{ratio}**<br>{same}<br>noise {float(noise):.3f}"


def measure(scope: Scope) -> list[Row]:
    """A row for each model."""
    return list(_rows())


def render(rows: Sequence[Row]) -> str:
    """A row for each model, a column for each tool."""
    columns = ["model", "source", "answers", *TOOLS, "**onnxopt `--data`**"]
    return markdown(columns, "lll" + "r" * (len(TOOLS) + 1), [[r.name, r.size, r.answers, *r.cells] for r in rows])


TABLES = (Table("deployed", "README.md", 0, measure, render),)
