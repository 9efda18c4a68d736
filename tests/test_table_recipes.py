"""The table of recipes: the engine at a recipe's accuracy, and what the document says of the floors."""

from __future__ import annotations

import pytest

from common.pages import ROOT
from tables import tables
from tables.recipes import ASKS, SYSTEMS, Found, Row, beside


def row(system: str, size: int, lost: float, model: str = "net") -> Row:
    return Row(model, system, 10_000, 90.0, Found(size, 90.0 - lost, 0.5, 1.0))


def test_the_engine_is_compared_at_the_recipes_accuracy() -> None:
    engine = row("engine", 1000, 0.4)
    sizes = [row("10x", 2000, 0.1), row("5x", 4000, 0.0), row("4x", 5000, -0.05), row("10x", 1, 0.0, "other")]
    for lost, size, ratio in ((0.45, "1,000", "3.00"), (0.39, "2,000", "1.50"), (-0.1, "4,000", "0.75")):
        recipe = row("recipe", 3000, lost)
        assert beside(recipe, [engine, recipe, *sizes]) == (size, ratio)
    assert beside(engine, [engine, *sizes]) == ("", "")
    assert beside(row("recipe", 3000, 0.05), [engine]) == ("none", "")


@pytest.fixture(scope="module")
def document() -> dict[str, list[str]]:
    """Its rows, whole."""
    table = tables()["recipes"]
    opening, closing = table.markers
    text = (ROOT / table.page).read_text(encoding="utf-8").partition(opening)[2].partition(closing)[0]
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
