"""Published systems, trained: each recipe at the ratio at which its paper loses nothing, and the engine beside it.

The engine's files are those of `tables.tuning`: a recipe is compared with the smallest that loses no more.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.pages import machine, markdown
from common.runs import Run, original
from common.tuned import TUNING, run, run_recipe
from onnxopt.report import classical
from onnxopt.report.classical import PaperTable
from tables import Scope, Table
from tables.tuning import ASKS, SPENT, spent, training


@dataclass(frozen=True, slots=True)
class System:
    """A recipe on one model, and what its paper reports."""

    model: str
    recipe: str
    ratio: float
    """That is asked for."""
    tune: str
    augment: str
    reported: bool = True
    """Whether the paper reports this ratio, for this model and without loss."""


SYSTEMS = (
    System("lenet_300_100", "deep-compression", 40, "60epochs", "noise"),
    System("lenet_300_100", "hierarchical", 20, "30epochs", "noise", reported=False),
    System("lenet5", "deep-compression", 39, "20epochs", "noise"),
    System("lenet5", "kmeans", 44.58, "10epochs", "noise"),
    System("lenet5", "hessian-kmeans", 47.16, "10epochs", "noise"),
    System("lenet5", "iterative-ecsq", 49.01, "10epochs", "noise"),
    System("lenet5", "uniform-ecsq", 51.25, "20epochs", "noise"),
)


@dataclass(frozen=True, slots=True)
class Row:
    """A recipe's files, and the engine's."""

    system: System
    untuned: Run
    tuned: Run
    layers: PaperTable | None
    """Of the tuned file."""
    before: float
    """The original's metric."""
    engine: Sequence[Run]
    """The engine's tuned files of this model."""

    @property
    def lost(self) -> float:
        """Points of the metric; rounded, because subtraction leaves an error in the last digits."""
        return round(self.before - self.tuned.metric, 4)

    @property
    def beside(self) -> Run | None:
        """The smallest file of the engine that loses no more. A file that is right more often than the original counts
        as one that loses nothing."""
        equal = [one for one in self.engine if round(self.before - one.metric, 4) <= max(0.0, self.lost)]
        return min(equal, key=lambda one: one.bytes_after, default=None)


def measure(scope: Scope) -> list[Row]:
    """Every recipe of the models, untuned and tuned."""
    return [
        Row(
            one,
            TUNING.once(run_recipe, one.model, one.ratio, "", "", scope.limit, one.recipe)[0],
            *TUNING.once(run_recipe, one.model, one.ratio, one.tune, one.augment, scope.limit, one.recipe),
            original(one.model, scope.limit),
            [TUNING.once(run, ask.model, ask.ratio, ask.tune, ask.augment, scope.limit)
             for ask in ASKS if ask.model == one.model],
        )
        for one in SYSTEMS
        if one.model in scope.models
    ]  # fmt: skip


def render(rows: Iterable[Row]) -> str:
    """One row a system."""
    lines = []
    for row in rows:
        one, tuned, beside = row.system, row.tuned, row.beside
        kept = "yes" if row.lost <= 0 and tuned.ratio >= one.ratio else "**no**"
        paper, kept = (f"{one.ratio:g}x", kept) if one.reported else (f"none; {one.ratio:g}x asked", "")
        sizes = [paper, f"{tuned.bytes_after:,}", f"{tuned.ratio:.1f}x"]
        scores = [f"{metric:.2f}" for metric in (row.before, row.untuned.metric, tuned.metric, row.lost)]
        engine = ["none", ""] if beside is None else [f"{beside.bytes_after:,}, {beside.metric:.2f} %",
                                                      f"{tuned.bytes_after / beside.bytes_after:.2f}"]  # fmt: skip
        how = training(one.tune, one.augment)
        lines.append([one.model, one.recipe, *sizes, *scores, kept, *engine, how, *spent(tuned)])
    columns = ["model", "recipe", "paper, no loss", "bytes", "ratio", "before %", "untuned %", "tuned %", "lost",
               "as the paper", "engine at that", "times smaller", "passes", *SPENT]  # fmt: skip
    return markdown(columns, "llrrrrrrrlrrlrrr", lines) + f"\n\nOn {machine()}."


def render_layers(rows: Iterable[Row]) -> str:
    """The table of the paper, for every tuned file."""
    parts = []
    for row in rows:
        layers = row.layers
        if layers is not None:
            lines = [[each.layer, *(classical.text(value, column.unit)
                                    for value, column in zip(each.values, layers.columns, strict=True))]
                     for each in (*layers.rows, layers.total)]  # fmt: skip
            table = markdown(
                ["layer", *(one.heading for one in layers.columns)], "l" + "r" * len(layers.columns), lines
            )
            parts.append(f"{row.system.model}, {row.system.recipe}, {row.tuned.ratio:.1f}x:\n\n{table}")
    return "\n\n".join(parts)


_MODELS = tuple(dict.fromkeys(one.model for one in SYSTEMS))
TABLES = (
    Table("tuning-recipes", "docs/tuning.md", 25, measure, render, _MODELS),
    Table("tuning-layers", "docs/tuning.md", 0, measure, render_layers, _MODELS),
)
