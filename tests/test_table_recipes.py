"""The table of recipes: the engine at a recipe's accuracy, and what the document says of the floors."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import table_recipes
from table_recipes import ASKS, SYSTEMS


def row(system: str, size: str, lost: str) -> list[str]:
    return ["net", "0.5", system, size, "", "", lost, "yes", "50 %", "1"]


def test_the_engine_is_compared_at_the_recipes_accuracy() -> None:
    drops = {"net engine": row("engine", "1,000", "0.40")}
    sizes = {name: ["net", name, size, "", "", lost] for name, size, lost in
             (("10x", "2,000", "0.10"), ("5x", "4,000", "0.00"), ("4x", "5,000", "-0.05"))}  # fmt: skip
    other = {"10x": ["other", "10x", "1", "", "", "0.00"]}
    for lost, engine, ratio in (("0.45", "1,000", "3.00"), ("0.39", "2,000", "1.50"), ("-0.10", "4,000", "0.75")):
        found = table_recipes._beside(row("recipe", "3,000", lost), drops, {**sizes, "other": other["10x"]})
        assert found == [engine, ratio]
    assert table_recipes._beside(drops["net engine"], drops, sizes) == ["", ""]
    assert table_recipes._beside(row("recipe", "3,000", "0.05"), drops, {}) == ["none", ""]


@pytest.fixture(scope="module")
def document() -> dict[str, list[str]]:
    """Its rows, whole."""
    text = table_recipes.DOCUMENT.read_text(encoding="utf-8")
    text = text.partition(table_recipes.DROPS)[2].partition(table_recipes.END)[0]
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {f"{one[0]} {one[2]}": one for one in rows[2:]}


def test_the_document_has_every_recipe_on_every_model(document: dict[str, list[str]]) -> None:
    assert list(document) == SYSTEMS


@pytest.mark.parametrize("model", ASKS)
def test_the_engine_beats_every_recipe_at_equal_accuracy(model: str, document: dict[str, list[str]]) -> None:
    for name, found in document.items():
        if found[0] == model and not name.endswith(" engine"):
            assert float(found[11]) > 1, name


def test_the_floors_on_lenet5(document: dict[str, list[str]]) -> None:
    deep, hierarchical = (document[f"lenet5 {name}"] for name in ("deep-compression", "hierarchical"))
    assert float(deep[4].rstrip("x")) >= 20
    assert float(deep[6]) <= 0.3
    assert float(hierarchical[8].rstrip(" %")) >= 75
    assert float(hierarchical[6]) <= 0.3
