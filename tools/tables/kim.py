"""Kim et al.'s Table 2 from our own passes: AlexNet factorised by the paper's ranks, weights and FLOPs counted.

AlexNet's weights are random: the counts do not depend on them. The paper: Kim et al., "Compression of deep
convolutional neural networks for fast and low power mobile applications", ICLR 2016.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from common.kept import ONNXOPT
from common.networks import Fill, alexnet, random_weights, vgg16
from common.pages import markdown
from onnxopt.calibration.stats import Stats
from onnxopt.graph import Graph, macs, normalise
from onnxopt.passes import STRUCTURAL
from onnxopt.spec.plan import Step
from tables import Table

# ---- the paper -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Printed:
    """A row of Table 2, as it is printed."""

    step: str
    weights: tuple[str, str]
    """Before and after."""
    flops: tuple[str, str]
    by_factor: tuple[str, ...]
    ratios: tuple[str, str]
    """Of weights and of FLOPs."""


PAPER = {
    "conv1": Printed("svd{rank=26}", ("35K", "11K"), ("105M", "36M"), ("29M", "7M"), ("2.92", "2.92")),
    "conv2": Printed("tucker{in=25,out=59}", ("307K", "91K"), ("224M", "67M"), ("2M", "54M", "11M"), ("3.37", "3.37")),
    "conv3": Printed("tucker{in=105,out=112}", ("885K", "178K"), ("150M", "30M"), ("5M", "18M", "7M"),
                     ("5.03", "5.03")),
    "conv4": Printed("tucker{in=49,out=46}", ("664K", "77K"), ("112M", "13M"), ("3M", "7M", "3M"), ("7.10", "7.10")),
    "conv5": Printed("tucker{in=40,out=34}", ("442K", "49K"), ("75.0M", "8.2M"), ("2.6M", "4.1M", "1.5M"),
                     ("9.11", "9.11")),
    "fc6": Printed("tucker{in=210,out=584}", ("37.7M", "6.9M"), ("37.7M", "8.7M"), ("1.9M", "4.4M", "2.4M"),
                   ("8.03", "4.86")),
    "fc7": Printed("svd{rank=301}", ("16.8M", "2.4M"), ("16.8M", "2.4M"), ("1.2M", "1.2M"), ("6.80", "6.80")),
    "fc8": Printed("svd{rank=195}", ("4.1M", "1.0M"), ("4.1M", "1.0M"), ("0.8M", "0.2M"), ("4.12", "4.12")),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Number:
    """A count of ours beside the paper's."""

    ours: float
    printed: str

    @property
    def agrees(self) -> bool:
        """To less than one in the last digit that is printed: the paper rounds some numbers and cuts others."""
        digits, decimals, scale, _ = self._parts()
        return abs(self.ours / scale - float(digits)) < 10.0**-decimals

    def __str__(self) -> str:
        _, decimals, scale, suffix = self._parts()
        text = f"{self.ours / scale:.{decimals}f}{suffix}"
        return text if self.agrees else f"**{text}** (paper: {self.printed})"

    def _parts(self) -> tuple[str, int, float, str]:
        """Of what is printed: digits, how many of them are decimals, what the suffix stands for, the suffix."""
        digits = self.printed.rstrip("KMG")
        suffix = self.printed.removeprefix(digits)
        return digits, len(digits.partition(".")[2]), {"": 1.0, "K": 1e3, "M": 1e6, "G": 1e9}[suffix], suffix


# ---- counting ------------------------------------------------------------------------------------------------------


def factored(model: onnx.ModelProto) -> onnx.ModelProto:
    """AlexNet factorised by the paper's ranks, in place."""
    normalise(model)
    graph = Graph(model)
    for layer, row in PAPER.items():
        step = Step.parse(row.step)
        (site,) = [site for site in graph.sites() if site.path == f"{layer}.w"]
        STRUCTURAL[step.name].from_step(step).apply(graph, site, Stats())
    return graph.model


def count(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates by node. The model runs, on weights that it makes of their shapes."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = model.graph.name
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        shape = numpy_helper.from_array(np.array(tensor.dims, np.int64), f"{tensor.name}.shape")
        light.graph.initializer.append(shape)
        light.graph.node.append(helper.make_node("ConstantOfShape", [shape.name], [tensor.name]))
    light.graph.node.extend(model.graph.node)
    x = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return macs(light, {"x": np.zeros(x, np.float32)})


def sizes(model: onnx.ModelProto) -> dict[str, int]:
    """Weights by name, without biases."""
    return {t.name: prod(t.dims) for t in model.graph.initializer if len(t.dims) > 1}


def biases(model: onnx.ModelProto, counted: dict[str, int]) -> int:
    """Outputs of the layers that have a bias: additions that the paper's totals count."""
    inputs = {t.name: prod(t.dims[1:]) for t in model.graph.initializer if len(t.dims) > 1}
    return sum(counted[n.name] // inputs[n.input[1]] for n in model.graph.node if len(n.input) > 2)


@dataclass(frozen=True, slots=True)
class Row:
    """A layer, before and after."""

    layer: str
    weights: tuple[Number, Number]
    flops: tuple[Number, Number]
    by_factor: tuple[Number, ...]
    ratios: tuple[Number, Number]

    @property
    def numbers(self) -> tuple[Number, ...]:
        """All of them."""
        return (*self.weights, *self.flops, *self.by_factor, *self.ratios)


@dataclass(frozen=True, slots=True)
class Total:
    """Something of a whole network."""

    what: str
    number: Number


def counts(fill: Fill = random_weights) -> tuple[list[Row], list[Total]]:
    """Both tables of the page, from one factorisation."""
    model = alexnet(fill)
    before, weights = count(model), sizes(model)
    added = biases(model, before)
    factored(model)
    after, parts = count(model), sizes(model)
    rows = []
    for layer, printed in PAPER.items():
        made = [name for name in after if name.partition("@")[0] == layer]
        old, new = weights[f"{layer}.w"], sum(n for name, n in parts.items() if name.startswith(f"{layer}.w@"))
        done = sum(after[name] for name in made)
        rows.append(Row(
            layer,
            (Number(old, printed.weights[0]), Number(new, printed.weights[1])),
            (Number(before[layer], printed.flops[0]), Number(done, printed.flops[1])),
            tuple(Number(after[name], text) for name, text in zip(made, printed.by_factor, strict=True)),
            (Number(old / new, printed.ratios[0]), Number(before[layer] / done, printed.ratios[1])),
        ))  # fmt: skip
    vector = [t.dims[0] for t in model.graph.initializer if len(t.dims) == 1]
    old, new = sum(weights.values()) + sum(vector), sum(parts.values()) + sum(vector)
    all_before, all_after = sum(before.values()), sum(after.values())
    deep = vgg16()
    deep_macs = count(deep)
    totals = [
        Total("AlexNet, weights and biases", Number(old, "61M")),
        Total("AlexNet factored, weights and biases", Number(new, "11M")),
        Total("their ratio", Number(old / new, "5.46")),
        Total("AlexNet, multiply-accumulates", Number(all_before, "725M")),
        Total("AlexNet, with the additions of biases", Number(all_before + added, "725M")),
        Total("AlexNet factored, multiply-accumulates", Number(all_after, "272M")),
        Total("AlexNet factored, with biases, and with conv1 as it was before counted, too",
              Number(all_after + added + before["conv1"], "272M")),
        Total("AlexNet without groups, multiply-accumulates (MicroBrain's count)",
              Number(sum(count(alexnet(groups=1)).values()), "1.14G")),
        Total("VGG-16, multiply-accumulates (MicroBrain's count)", Number(sum(deep_macs.values()), "15.47G")),
        Total("VGG-16, with the additions of biases",
              Number(sum(deep_macs.values()) + biases(deep, deep_macs), "15484M")),
    ]  # fmt: skip
    return rows, totals


# ---- the document --------------------------------------------------------------------------------------------------


def layer_table(rows: Sequence[Row]) -> str:
    """One row a layer."""
    lines = []
    for row in rows:
        (w0, w1), (f0, f1), (rw, rf) = row.weights, row.flops, row.ratios
        numbers = map(str, (w0, w1, rw, f0, f1, " + ".join(map(str, row.by_factor)), rf))
        lines.append([row.layer, f"`{PAPER[row.layer].step}`", *numbers])
    columns = ["layer", "step", "weights", "factored", "ratio", "FLOPs", "factored", "by factor", "ratio"]
    return markdown(columns, "llrrrrrlr", lines)


def total_table(totals: Sequence[Total]) -> str:
    """One row a total."""
    lines = []
    for one in totals:
        mark = "" if one.number.agrees else "**"
        exact = f"{one.number.ours:,.0f}" if one.number.ours > 1000 else f"{one.number.ours:.2f}"
        lines.append([one.what, f"{mark}{exact}{mark}", one.number.printed])
    return markdown(["", "counted", "paper"], "lrr", lines)


TABLES = (
    Table("layers", "docs/lowrank.md", 5, lambda scope: ONNXOPT.once(counts)[0], layer_table),
    Table("totals", "docs/lowrank.md", 5, lambda scope: ONNXOPT.once(counts)[1], total_table),
)
