"""The tables of fine-tuning."""

from __future__ import annotations

from common.runs import Run
from onnxopt.report.classical import Column, PaperTable, Row
from tables import factors
from tables.factors import Factored
from tables.tuning import Ask, System, render, render_layers, render_systems


def test_a_row_says_what_was_lost_and_whether_that_was_allowed() -> None:
    ask = Ask("lenet5", 100, 0.2, "3epochs", "noise")
    untuned = Run(1_000_000, 9_950, 5.0, 0.0, 2**27, None, 80.0)
    for metric, said in ((98.0, "| 0.10 | 0.2 | yes |"), (97.8, "| 0.30 | 0.2 | **no** |")):
        tuned = Run(1_000_000, 9_900, 61.4, 50.0, 500_000_000, None, metric)
        (row,) = [line for line in render([(ask, untuned, tuned, 98.1)]).splitlines() if line.startswith("| lenet5")]
        assert "| 100x | 9,900 | 101.0x | 98.10 | 80.00 |" in row
        assert said in row
        assert row.endswith("| 3, noise | 61 | 50 | 500 |")


def test_a_system_is_as_its_paper_says_where_it_loses_nothing() -> None:
    system = System("lenet5", "deep-compression", 39, "9epochs", "noise")
    untuned = Run(1_000_000, 25_000, 5.0, 4.0, 2**27, None, 80.0)
    layers = PaperTable("t", (Column("count", "count", ""),), (Row("conv", (500.0,)),), Row("total", (500.0,)), ())
    for metric, size, said in ((98.1, 25_000, "| 0.00 | yes |"), (98.0, 25_000, "**no**"), (98.2, 26_000, "**no**")):
        tuned = Run(1_000_000, size, 61.4, 50.2, 500_000_000, None, metric)
        rows = [(system, untuned, tuned, layers, 98.1)]
        (row,) = [line for line in render_systems(rows).splitlines() if line.startswith("| lenet5")]
        assert said in row
        assert row.endswith("| 9, noise | 61 | 50 | 500 |")
        assert "| conv | 500 |" in render_layers(rows)


def test_a_factored_network_is_shown_after_every_number_of_passes() -> None:
    def rows(last: float) -> list[factors.Row]:
        found = [Factored(12_000, 9.5, 8.25, 8.3, metric, 700.4, 10**9) for metric in (10.0, 80.0, last)]
        return [("resnet56", found, 93.4)]

    for last, said in ((92.9, "| 0.50 | 0.5 | yes |"), (92.8, "| 0.60 | 0.5 | **no** |")):
        (row,) = [line for line in factors.render(rows(last)).splitlines() if line.startswith("| resnet56")]
        assert f"| 12,000 | 9.50 | 8.25 | 8.30x | 93.40 | 10.00 | 80.00 | {last:.2f} {said}" in row
        assert row.endswith("| 700 | 1000 |")
