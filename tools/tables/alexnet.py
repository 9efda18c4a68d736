"""Deep Compression's Table 4 from our own arithmetic: AlexNet pruned to the paper's shares.

AlexNet's trained weights are not at hand, so they are random: once with the light tails of a normal distribution, once
with heavy ones. A second table has what trained layers of other networks take, pruned to the same shares. The paper:
Han, Mao & Dally, "Deep Compression", ICLR 2016.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from common import realdata
from common.kept import ONNXOPT
from common.networks import alexnet
from common.pages import markdown
from onnxopt.encoding import Codebook
from onnxopt.passes.math.kmeans import cluster
from onnxopt.passes.math.relative_index import Sizes, sizes
from tables import Table

VALUE_BITS, GAP_BITS = {"conv": 8, "fc": 5}, 4
"""Before Huffman: Weight bits (P+Q) by kind of layer, index bits of all."""
_FREEDOM = 4
"""Degrees of freedom of Student's t: its fourth moment is infinite, trained weights' is large."""
_LARGE, _MOST, _EACH = 50_000, 2**20, 4
"""The fewest weights of a trained layer that counts, the most that are used, and the most layers of a network."""


@dataclass(frozen=True, slots=True)
class Printed:
    """A row of Table 4, as it is printed."""

    kept: int
    """Weights % (P)."""
    coded_value_bits: float
    """Weight bits (P+Q+H)."""
    coded_gap_bits: float
    """Index bits (P+Q+H)."""
    quantized: float
    """Compress rate (P+Q), %."""
    coded: float
    """Compress rate (P+Q+H), %."""


PAPER = {
    "conv1": Printed(84, 6.3, 1.2, 32.6, 20.53),
    "conv2": Printed(38, 5.5, 2.3, 14.5, 9.43),
    "conv3": Printed(35, 5.1, 2.6, 13.1, 8.44),
    "conv4": Printed(37, 5.2, 2.5, 14.1, 9.11),
    "conv5": Printed(37, 5.6, 2.5, 14.0, 9.43),
    "fc6": Printed(9, 3.9, 3.2, 3.0, 2.39),
    "fc7": Printed(9, 3.6, 3.7, 3.0, 2.46),
    "fc8": Printed(25, 4.0, 3.2, 7.3, 5.85),
}
TOTAL = Printed(11, 4.0, 3.2, 3.7, 2.88)

SHAPES = {
    name: tuple(tensor.dims)
    for tensor in alexnet().graph.initializer
    if (name := tensor.name.removesuffix(".w")) in PAPER
}


@dataclass(frozen=True, slots=True)
class Row:
    """What one layer, or all together, takes."""

    layer: str
    printed: Printed
    light: tuple[Sizes, ...]
    """With normal weights, by layer."""
    heavy: tuple[Sizes, ...]
    """With weights of heavy tails."""

    @property
    def weights(self) -> int:
        """All of them."""
        return sum(each.weights for each in self.light)

    @property
    def value_bits(self) -> tuple[float, float]:
        """Of a token's value after Huffman: heavy tails, where k-means spends values on few far weights, and light."""
        return _mean(self.heavy, "huffman_value_bits"), _mean(self.light, "huffman_value_bits")

    @property
    def gap_bits(self) -> float:
        """Of a token's gap after Huffman."""
        return _mean(self.light, "huffman_gap_bits")

    @property
    def quantized(self) -> float:
        """P + Q, % of 32 bits a weight."""
        return self._percent(self.light, "quantized_bits")

    @property
    def coded(self) -> tuple[float, float]:
        """P + Q + H, %: heavy tails, and light."""
        return self._percent(self.heavy, "coded_bits"), self._percent(self.light, "coded_bits")

    def _percent(self, each: Sequence[Sizes], what: str) -> float:
        return float(100 * sum(getattr(one, what) for one in each) / (32 * self.weights))


def _mean(each: Sequence[Sizes], what: str) -> float:
    return float(sum(getattr(one, what) for one in each) / sum(one.tokens for one in each))


def measured(layer: str) -> Row:
    """One layer, pruned to the paper's share by magnitude and quantized by k-means with linear initialisation."""
    shape, printed = SHAPES[layer], PAPER[layer]
    rng = np.random.default_rng(0)
    bits = VALUE_BITS[layer.rstrip("0123456789")]
    light = _sizes(rng.standard_normal(shape), printed.kept, bits)
    return Row(layer, printed, (light,), (_sizes(rng.standard_t(_FREEDOM, shape), printed.kept, bits),))


def _sizes(w: npt.NDArray[np.float64], kept: int, value_bits: int, gap_bits: int = GAP_BITS) -> Sizes:
    pruned = w.size - round(w.size * kept / 100)
    threshold = np.partition(np.abs(w), pruned, None)[pruned]
    index, table = cluster(np.where(np.abs(w) >= threshold, w, 0), 2**value_bits)
    return sizes(Codebook(index, table.astype(np.float32)), gap_bits)


def total(rows: Sequence[Row]) -> Row:
    """All layers."""
    return Row(
        "all", TOTAL, *(tuple(each for row in rows for each in getattr(row, what)) for what in ("light", "heavy"))
    )


def alexnet_table(rows: Sequence[Row]) -> str:
    """One row a layer; what the paper has outside of our range is bold."""
    lines = []
    for row in (*rows, total(rows)):
        paper = row.printed
        lines.append([
            row.layer, f"{row.weights:,}", f"{paper.kept} %", *_cells(row.value_bits, paper.coded_value_bits, ".1f"),
            f"{row.gap_bits:.1f}", f"{paper.coded_gap_bits}", f"{row.quantized:.1f} %", f"{paper.quantized} %",
            *_cells(row.coded, paper.coded, ".2f", " %"),
        ])  # fmt: skip
    kinds = ("value bits", "index bits", "P+Q", "P+Q+H")
    columns = ["layer", "weights", "kept", *(heading for kind in kinds for heading in (kind, "paper"))]
    return markdown(columns, "l" + "r" * (len(columns) - 1), lines)


def _cells(ours: Sequence[float] | npt.NDArray[np.float64], paper: float, form: str, unit: str = "") -> tuple[str, str]:
    """Our range, and the paper's."""
    low, high = (f"{value:{form}}" for value in ours)
    mark = "" if float(low) <= paper <= float(high) else "**"
    return f"{low} to {high}{unit}", f"{mark}{paper:{form}}{unit}{mark}"


@cache
def trained(kind: str) -> tuple[npt.NDArray[np.float64], ...]:
    """Layers of the models in the shared folder and of our own: kernels of several taps for conv, else matrices."""
    found = []
    for path in (*sorted(realdata.MODELS.glob("*.onnx")), *sorted(realdata.OWN_MODELS.glob("*.onnx"))):
        layers = []
        for tensor in onnx.load(path).graph.initializer:
            if tensor.data_type != onnx.TensorProto.FLOAT or len(tensor.dims) < 2 or math.prod(tensor.dims) < _LARGE:
                continue
            taps = math.prod(tensor.dims[2:])
            if kind == ("conv" if taps > 1 and tensor.dims[1] > 1 else "fc"):
                layers.append(numpy_helper.to_array(tensor).astype(np.float64))
        found += sorted(layers, key=lambda w: -w.size)[:_EACH]
    return tuple(w.ravel()[:_MOST] for w in found if w.any())


@cache
def _spread(kind: str, kept: int, gap_bits: int) -> dict[str, tuple[float, float]]:
    """The least and the most that trained layers take: bits of a token, and % of 32 bits a weight without tables."""
    each = [_sizes(w, kept, VALUE_BITS[kind], gap_bits) for w in trained(kind)]
    values: dict[str, list[float]] = {
        "value": [one.mean_value_bits for one in each],
        "gap": [one.mean_gap_bits for one in each],
        "quantized": [100 * (one.quantized_bits - one.table_bits) / (32 * one.weights) for one in each],
        "coded": [100 * (one.coded_bits - one.table_bits) / (32 * one.weights) for one in each],
    }
    return {name: (min(numbers), max(numbers)) for name, numbers in values.items()}


def _trained_rows(wide: Sequence[str]) -> list[list[str]]:
    """A row for each layer, and one for all; the layers that are `wide` have a bit more for gaps."""
    rows, sums, total = [], np.zeros(4), 0
    for layer, paper in PAPER.items():
        kind, weights, bits = layer.rstrip("0123456789"), math.prod(SHAPES[layer]), GAP_BITS + (layer in wide)
        found, table = _spread(kind, paper.kept, bits), 100 * 2 ** VALUE_BITS[kind] / weights
        stored = np.array([*found["quantized"], *found["coded"]]) + table
        sums, total = sums + stored * weights, total + weights
        rows.append([
            layer, f"{paper.kept} %", str(bits), *_cells(found["value"], paper.coded_value_bits, ".1f"),
            *_cells(found["gap"], paper.coded_gap_bits, ".1f"), *_cells(stored[:2], paper.quantized, ".1f", " %"),
            *_cells(stored[2:], paper.coded, ".2f", " %"),
        ])  # fmt: skip
    stored = sums / total
    rows.append(["all", f"{TOTAL.kept} %", "", "", "", "", "", *_cells(stored[:2], TOTAL.quantized, ".1f", " %"),
                 *_cells(stored[2:], TOTAL.coded, ".2f", " %")])  # fmt: skip
    return rows


@dataclass(frozen=True, slots=True)
class Trained:
    """The second table."""

    rows: list[list[str]]
    convolutions: int
    matrices: int


def measure_trained() -> Trained:
    """The range over trained layers; below, gaps of fc6 and fc7 in 5 bits."""
    wider = [row for row in _trained_rows(("fc6", "fc7")) if row[0] in ("fc6", "fc7", "all")]
    return Trained([*_trained_rows(()), *wider], len(trained("conv")), len(trained("fc")))


def trained_table(found: Trained) -> str:
    """The range over trained layers; what the paper has outside of it is bold."""
    columns = ["layer", "kept", "gaps in", "value bits", "paper", "index bits", "paper", "P+Q", "paper", "P+Q+H"]
    counts = f"{found.convolutions} trained convolutions, {found.matrices} trained matrices."
    return f"{markdown([*columns, 'paper'], 'l' + 'r' * len(columns), found.rows)}\n\n{counts}"


TABLES = (
    Table(
        "alexnet",
        "docs/classical.md",
        8,
        lambda scope: [ONNXOPT.once(measured, layer) for layer in PAPER],
        alexnet_table,
    ),
    Table("alexnet-trained", "docs/classical.md", 8, lambda scope: ONNXOPT.once(measure_trained), trained_table),
)
