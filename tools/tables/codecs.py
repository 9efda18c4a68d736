"""How small and how fast the codecs are, on the integers of the shared models.

Speeds are of one thread, every codec and instruction set taking turns, after one turn that does not count. Bytes are
those of the float32 tensor that the integers become; the time includes its allocation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from common import codec_speed, realdata
from common.codec_sizes import LARGE, Setting, Size, model_sizes, speed_inputs
from common.codec_speed import Speed, speeds
from common.kept import ONNXOPT
from common.pages import markdown
from tables import Scope, Table

BITS = tuple(range(2, 9))
PRUNED_BITS = (4, 5, 8)
ZEROS = (0.8, 0.9)
REPEATS = 21
"""Of each speed."""

RANS_GOAL = 1.005
"""The most that `rans` shall take of a large tensor's order-0 entropy, tables included."""


def goal(model: str) -> float:
    """The most that the writer's choice shall take of a model's order-0 entropy, tables included."""
    return 0.98 if model.startswith("resnet") else 1.005


@dataclass(frozen=True, slots=True)
class Measured:
    """Everything in the page."""

    sizes: dict[str, dict[Setting, Size]]
    """By model."""
    speeds: dict[str, dict[str, Speed]]
    """By what was coded, and task."""


def measure_speeds(repeats: int) -> dict[str, dict[str, Speed]]:
    """On each of `speed_inputs`."""
    return {name: speeds(q, repeats) for name, q in speed_inputs().items()}


def measure(scope: Scope) -> Measured:
    """Sizes of every model at every setting, and speeds."""
    settings = (*(Setting(0, bits) for bits in BITS), *(Setting(z, bits) for z in ZEROS for bits in PRUNED_BITS))
    paths = {model: realdata.path_of(model) for model in scope.models}
    return Measured(
        {model: ONNXOPT.once(model_sizes, path, settings) for model, path in paths.items()},
        ONNXOPT.once(measure_speeds, REPEATS),
    )


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table: the first column names the row, the others are figures."""

    title: str
    columns: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """For a document."""
        table = markdown(self.columns, "l" + "r" * (len(self.columns) - 1), self.rows)
        return f"**{self.title}**\n\n{table}"


FIGURES: dict[str, Callable[[Size], str]] = {
    "The writer's choice, all weights of a model, over their order-0 entropy": lambda s: f"{s.ratio:.3f}",
    "The same, over the entropy with Miller's correction": lambda s: f"{s.corrected_ratio:.3f}",
    f"`rans` over order-0, the worst tensor of more than {LARGE:,} weights": lambda s: (
        f"{s.rans:.4f}" if s.rans else ""
    ),
    "Bits a weight, the writer's choice": lambda s: f"{s.bits:.2f}",
}


def size_sheets(sizes: dict[str, dict[Setting, Size]]) -> Iterator[Sheet]:
    """One figure each, a row a model, a column a setting."""
    settings = list(next(iter(sizes.values())))
    for title, figure in FIGURES.items():
        rows = [[model, *(figure(by[s]) for s in settings)] for model, by in sizes.items()]
        yield Sheet(title, ["model", *map(str, settings)], [row for row in rows if any(row[1:])])


def missed_sheet(sizes: dict[str, dict[Setting, Size]]) -> Sheet:
    """Every figure that is above its goal, as it is and with the correction."""
    rows = []
    for model, by in sizes.items():
        for setting, s in by.items():
            where = [f"{model}, {setting}"]
            if s.ratio > goal(model):
                rows.append([*where, "choice", f"{s.ratio:.4f}", f"{goal(model)}", f"{s.corrected_ratio:.4f}"])
            if s.rans > RANS_GOAL:
                rows.append([*where, "rans", f"{s.rans:.4f}", f"{RANS_GOAL}", ""])
    return Sheet("Goals missed", ["where", "what", "over order-0", "goal", "over corrected"], rows)


def speed_sheet(measured: dict[str, dict[str, Speed]], repeats: int) -> Sheet:
    """A row a task."""
    tasks = next(iter(measured.values()))
    rows = [
        [task, *(f"{by[task].best / 1e6:,.0f} ({by[task].median / 1e6:,.0f})" for by in measured.values())]
        for task in tasks
    ]
    title = f"MB of float32 a second on one core, best of {repeats} (median): {codec_speed.machine()}"
    return Sheet(title, ["", *measured], rows)


def render(found: Measured) -> str:
    """All sheets."""
    sheets = [*size_sheets(found.sizes), missed_sheet(found.sizes)]
    return "\n\n".join(sheet.markdown() for sheet in [*sheets, speed_sheet(found.speeds, REPEATS)])


TABLES = (Table("codecs", "docs/codecs.md", 2, measure, render, realdata.SHARED),)
