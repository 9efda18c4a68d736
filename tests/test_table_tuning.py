"""The tables of fine-tuning."""

from __future__ import annotations

from common.int8_files import File
from common.kernels import Kernels
from common.runs import Run
from onnxopt.report.classical import Column, PaperTable
from onnxopt.report.classical import Row as Layer
from tables import factors, tuned_recipes, tuned_speed
from tables.factors import Factored
from tables.tuned_recipes import System
from tables.tuning import Ask, render


def found(metric: float, size: int = 9_900) -> Run:
    return Run(1_000_000, size, 61.4, 50.2, 500_000_000, None, metric)


def test_a_row_says_what_was_lost_and_whether_that_was_allowed() -> None:
    for metric, allowed, said in (
        (98.0, 0.2, "| 0.10 | 0.2 | yes |"),
        (97.8, 0.2, "| 0.30 | 0.2 | **no** |"),
        (80.0, None, "| 18.10 | 18.10, as untuned | yes |"),
        (79.9, None, "| 18.20 | 18.10, as untuned | **no** |"),
    ):
        ask = Ask("lenet5", 100, allowed, "3epochs", "noise")
        text = render([(ask, found(80.0, 9_950), found(metric), 98.1)])
        (row,) = [line for line in text.splitlines() if line.startswith("| lenet5")]
        assert "| 100x | 9,900 | 101.0x | 98.10 | 80.00 |" in row
        assert said in row
        assert row.endswith("| 3, noise | 61 | 50 | 500 |")


def test_a_system_is_as_its_paper_says_where_it_loses_nothing() -> None:
    system = System("lenet5", "deep-compression", 39, "9epochs", "noise")
    layers = PaperTable("t", (Column("count", "count", ""),), (Layer("conv", (500.0,)),), Layer("total", (500.0,)), ())
    engine = [found(98.3, 5_000), found(98.0, 4_000)]
    for metric, size, said in (
        (98.1, 25_000, "| 0.00 | yes | 5,000, 98.30 % | 5.00 |"),
        (98.0, 25_000, "| 0.10 | **no** | 4,000, 98.00 % | 6.25 |"),
        (98.4, 26_000, "| -0.30 | **no** | 5,000, 98.30 % | 5.20 |"),
    ):
        rows = [tuned_recipes.Row(system, found(80.0), found(metric, size), layers, 98.1, engine)]
        (row,) = [line for line in tuned_recipes.render(rows).splitlines() if line.startswith("| lenet5")]
        assert said in row
        assert row.endswith("| 9, noise | 61 | 50 | 500 |")
        assert "| conv | 500 |" in tuned_recipes.render_layers(rows)


def test_a_ratio_that_no_paper_reports_is_held_against_none() -> None:
    system = System("lenet5", "hierarchical", 20, "9epochs", "noise", reported=False)
    for metric, said in ((98.0, "| 0.10 |  |"), (98.1, "| 0.00 |  |")):
        row = tuned_recipes.Row(system, found(80.0), found(metric, 40_000), None, 98.1, [])
        assert "| hierarchical | none; 20x asked | 40,000 |" in tuned_recipes.render([row])
        assert said in tuned_recipes.render([row])


def test_a_factored_network_is_shown_after_every_number_of_passes() -> None:
    def rows(last: float) -> list[factors.Row]:
        found = [Factored(12_000, 9.5, 8.25, 8.3, metric, 700.4, 10**9) for metric in (10.0, 80.0, last)]
        return [(factors.Ask("resnet56", 0.5, 0.75), found, 93.4)]

    for last, said in ((92.9, "| 0.50 | 0.5 | yes |"), (92.8, "| 0.60 | 0.5 | **no** |")):
        (row,) = [line for line in factors.render(rows(last)).splitlines() if line.startswith("| resnet56")]
        assert f"| 0.75 | 12,000 | 9.50 | 8.25 | 8.30x | 93.40 | 10.00 | 80.00 | {last:.2f} {said}" in row
        assert row.endswith("| 700 | 1000 |")


def test_integers_at_run_time_may_lose_half_of_what_the_runtimes_own_lose() -> None:
    def file(metric: float) -> File:
        return File(1_919_000, metric, Kernels(49, 53, 3))

    for metric, said in ((82.5, "**no**"), (82.6, "yes")):
        row = tuned_speed.Row("mobilenet_v2", "Entropy", 83.0, file(82.1), file(82.5), file(metric), 300.4)
        theirs, untuned, tuned = tuned_speed.render([row]).splitlines()[2:5]
        assert "| 1,919 | 49 of 53 | 83.00 | 82.10 | 0.90 |  |  |" in theirs
        assert "| 0.50 | **no** |  |" in untuned
        assert f"| {said} | 300 |" in tuned
