"""The table of alternatives: a cell has size, answers and time, and a tool that does nothing for a model has a dash."""

from __future__ import annotations

from tables.alternatives import HEADLINES, TOOLS, Cell, Row, headline, render

NONE = (None,) * (len(TOOLS) - 2)


def a_row(model: str) -> Row:
    return Row(model, 5_000_000, "59.90 %", 0.0123, (Cell(3.7, "59.70 %", 0.62), *NONE, Cell(8.3, "58.70 %", 0.98)))


def test_a_cell_has_size_answers_and_time() -> None:
    (line,) = [line for line in render([a_row("squeezenet1.1")]).splitlines() if line.startswith("| squeezenet1.1")]
    assert "| 5.0 MB<br>59.90 %<br>12.3 ms |" in line
    assert line.endswith("| **8.3x**<br>58.70 %<br>0.98x time |")
    assert line.count("| - ") == len(NONE)


def test_the_top_of_the_page_has_the_same_numbers() -> None:
    lines = headline([a_row(model) for model in (*HEADLINES, "resnet56")]).splitlines()
    assert len(lines) == len(HEADLINES)
    assert lines[0].startswith("- **8.3x smaller**: squeezenet1.1, 59.90 % -> 58.70 %")
    assert f"({TOOLS[0].name}: 3.7x, 59.70 %)" in lines[0]
