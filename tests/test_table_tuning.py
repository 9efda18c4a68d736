"""The table of fine-tuning."""

from __future__ import annotations

from common.runs import Run
from tables.tuning import Ask, render


def test_a_row_says_what_was_lost_and_whether_that_was_allowed() -> None:
    ask = Ask("lenet5", 100, 0.2, "3epochs", "noise")
    untuned = Run(1_000_000, 9_950, 5.0, 0.0, 2**27, None, 80.0)
    for metric, said in ((98.0, "| 0.10 | 0.2 | yes |"), (97.8, "| 0.30 | 0.2 | **no** |")):
        tuned = Run(1_000_000, 9_900, 61.4, 0.0, 500_000_000, None, metric)
        (row,) = [line for line in render([(ask, untuned, tuned, 98.1)]).splitlines() if line.startswith("| lenet5")]
        assert "| 100x | 9,900 | 101.0x | 98.10 | 80.00 |" in row
        assert said in row
        assert row.endswith("| 3, noise | 61 | 500 |")
