"""Deep Compression's Table 4: our arithmetic on AlexNet's shapes, and on the paper's own numbers; and the document."""

from __future__ import annotations

import re

import pytest

from common.pages import ROOT
from onnxopt.passes.math.relative_index import Sizes
from tables import alexnet, tables
from tables.alexnet import GAP_BITS, PAPER, SHAPES, VALUE_BITS

SCATTERED = ("fc6", "fc7")
"""Where the paper has fewer fillers than nonzeros at random."""
LARGE = [pytest.param(layer, marks=pytest.mark.slow) if layer in SCATTERED else layer for layer in PAPER]


def numbers(line: str) -> list[float]:
    return [float(number) for number in re.findall(r"[\d.]+", line.replace(",", ""))]


@pytest.mark.parametrize("layer", LARGE)
def test_alexnet_takes_what_the_paper_says(layer: str) -> None:
    row, paper = alexnet.measured(layer), PAPER[layer]
    low, high = row.value_bits
    assert low <= paper.coded_value_bits <= high + 0.05  # of 3.9, as it is printed
    assert paper.coded_gap_bits - 0.05 <= row.gap_bits <= paper.coded_gap_bits + 0.55
    assert row.quantized == pytest.approx(paper.quantized, rel=0.09)
    low, high = row.coded
    assert low * (0.9 if layer in SCATTERED else 1) <= paper.coded <= high
    written = alexnet.alexnet_table([row]).splitlines()[2]
    table = tables()["alexnet"]
    opening, closing = table.markers
    document = (ROOT / table.page).read_text(encoding="utf-8").partition(opening)[2].partition(closing)[0]
    (line,) = re.findall(rf"^\| {layer} \|.*$", document, re.MULTILINE)
    assert numbers(line) == pytest.approx(numbers(written), rel=0.02, abs=0.11)


@pytest.mark.parametrize("layer", PAPER)
def test_the_papers_own_bits_make_its_rates(layer: str) -> None:
    """From tokens and bits of one weight to the sizes of all: P+Q gives the tokens, these give P+Q+H."""
    weights, paper = 1, PAPER[layer]
    for side in SHAPES[layer]:
        weights *= side
    bits = VALUE_BITS[layer.rstrip("0123456789")]
    table = 32 * 2**bits
    tokens = round((paper.quantized / 100 * 32 * weights - table) / (bits + GAP_BITS))
    values, gaps = round(tokens * paper.coded_value_bits), round(tokens * paper.coded_gap_bits)
    found = Sizes(weights, 32, round(weights * paper.kept / 100), tokens, bits, GAP_BITS, table, values, gaps, 0, 0)
    assert 100 * found.quantized_bits / (32 * weights) == pytest.approx(paper.quantized, rel=1e-3)
    assert 100 * found.coded_bits / (32 * weights) == pytest.approx(paper.coded, rel=0.02)
