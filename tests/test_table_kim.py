"""Kim et al.'s Table 2, counted in the graph that our passes make of AlexNet; and that the document says so."""

from __future__ import annotations

import numpy as np
import pytest

from common.pages import ROOT
from onnxopt.passes import math
from tables import kim
from tables.kim import Number


def no_svd(w: np.ndarray, rank: int, root: None) -> tuple[np.ndarray, ...]:
    return np.zeros((len(w), rank)), np.zeros((rank, w.shape[1]))


def no_tucker(kernel: np.ndarray, rank_in: int, rank_out: int, root: None) -> tuple[np.ndarray, ...]:
    outputs, inputs, taps = kernel.shape
    return np.zeros((rank_in, inputs)), np.zeros((rank_out, rank_in, taps)), np.zeros((outputs, rank_out))


@pytest.mark.slow
def test_the_counts_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of factors of the right shapes: finding those of 60 million weights takes minutes."""
    monkeypatch.setattr(math, "svd", no_svd)
    monkeypatch.setattr(math, "tucker", no_tucker)
    rows, totals = kim.counts(lambda shape: np.ones(shape, np.float32))
    wrong = {(row.layer, number.printed) for row in rows for number in row.numbers if not number.agrees}
    # The paper contradicts itself: the ratio beside 178K is 885K/176K, and others are not those of their row's counts.
    assert wrong == {
        ("conv3", "178K"), ("conv4", "7.10"), ("conv5", "75.0M"), ("fc6", "8.03"), ("fc6", "4.86"),
    }  # fmt: skip
    counted = {row.layer: (row.weights[1].ours, row.flops[1].ours) for row in rows}
    assert counted["conv2"] == (91_254, 66_524_166)
    assert counted["conv3"] == (175_728, 29_698_032)
    assert counted["fc6"] == (6_860_864, 8_742_464)
    found = {one.what: one.number for one in totals}
    assert {what for what, number in found.items() if not number.agrees} == {
        "their ratio",
        "AlexNet factored, multiply-accumulates",
    }
    assert found["AlexNet, multiply-accumulates"].ours == 724_406_816
    assert sum(flops for _, flops in counted.values()) == found["AlexNet factored, multiply-accumulates"].ours
    document = (ROOT / "docs" / "lowrank.md").read_text(encoding="utf-8")
    assert kim.layer_table(rows) in document
    assert kim.total_table(totals) in document


@pytest.mark.parametrize(
    ("ours", "printed", "agrees"),
    [
        (11_934, "11K", True),
        (12_001, "11K", False),
        (8.2e6, "8.2M", True),
        (8.31e6, "8.2M", False),
        (2.915, "2.92", True),
    ],
)
def test_numbers_agree_to_the_last_digit(ours: float, printed: str, agrees: bool) -> None:
    assert Number(ours, printed).agrees == agrees
