"""How compressed models behave: size, time, accuracy, precision, recall, F1, energy, time by operator.

After Qin et al. 2018, "Understanding deep learning model compression on heterogeneous mobile platforms": each model
as it is, quantized, pruned, factorised, and as `onnxopt optimize` writes it, without fine-tuning. Calibration sees
training images, accuracy is that of the whole test part, and times are those of `onnxopt benchmark`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

import onnxopt
from common import realdata
from common.internals import Calibrated, calibrated
from common.kept import ONNXOPT
from common.pages import machine, markdown
from common.static_int8 import int8
from onnxopt import Contract
from onnxopt.graph import Site
from onnxopt.measure.benchmark import benchmark
from onnxopt.measure.evaluation.intervals import SIGNIFICANT
from onnxopt.passes import math
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Step
from tables import Scope, Table

MODELS = (
    "mobilenet_v1_0.25",
    "mobilenet_v2",
    "squeezenet1.0",
    "squeezenet1.1",
    "resnet20",
    "resnet32",
    "resnet56",
    "lenet5",
)
IMAGES = 512
"""Training images, at most, without labels."""
KEPT = 0.5
"""Share of the weights that pruning keeps in every matrix."""
TAIL = 0.1
"""Noise over signal in a layer's outputs, at most, by factorisation."""
PAYS = 0.9
"""A layer is factorised where that leaves no more than this share of its weights."""
SECONDS = 15.0
"""Of measuring latency, for each file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One file."""

    model: str
    variant: str
    size: int
    top1: float
    low: float
    high: float
    precision: float
    recall: float
    f1: float
    differs: bool
    """Whether its accuracy differs from the original's, by a paired test."""
    ms: float
    ratio: float
    """Its latency over the original's."""
    ratio_low: float
    ratio_high: float
    energy: str
    ops: tuple[tuple[str, float], ...]
    """Operators and their share of the time, longest first."""


def decided(source: Path, output: Path, data: Any, decide: Callable[[Calibrated], dict[str, Step]]) -> None:
    """Carries out the steps that `decide` gives, and leaves all other weights as they are."""
    with calibrated(source, data) as work:
        steps = decide(work)
    rules: list[dict[str, Any]] = [{"match": "*", "skip": True}]
    rules += [{"match": escape(path), "skip": False, "step": str(step)} for path, step in steps.items()]
    onnxopt.optimize(source, output, Contract(error=1.0), data, overrides=Overrides.of(rules), allow_miss=True)


def matrices(work: Calibrated) -> Iterable[Site]:
    """Weights of two or more dimensions."""
    return (site for site in work.sites if len(site.shape) > 1)


def weights8(work: Calibrated) -> dict[str, Step]:
    """Weights in 8 bits, a power of two for each tensor."""
    return {site.path: Step("fixedpoint", (("bits", 8),)) for site in matrices(work)}


def pruned(work: Calibrated) -> dict[str, Step]:
    """Half of the weights set to zero, the others corrected for that."""
    args = (("keep", KEPT), ("compensate", True))
    return {site.path: Step("prune", args) for site in matrices(work) if site.elements > 1000}


def factorised(work: Calibrated) -> dict[str, Step]:
    """Matrices and convolutions by SVD, at the smallest rank that keeps the layer's outputs."""
    steps = {}
    for site in matrices(work):
        stats = work.stats(site)
        if stats.linear is None or stats.moments is None or stats.moments.feedback is None:
            continue
        matrix = stats.linear.matrix(work.values(site).astype(np.float64))
        if len(matrix) > 1:
            continue
        root = math.root(stats.moments.feedback[0], stats.moments.variance[0])
        rank = math.energy_rank(math.spectrum(matrix[0], root), 1 - TAIL**2)
        outputs, inputs = matrix.shape[1:]
        if rank * (outputs + inputs) <= PAYS * outputs * inputs:
            steps[site.path] = Step("svd", (("rank", rank),))
    return steps


def variants(model: str, folder: Path) -> dict[str, Path]:
    """Files of a model, by what was done to it."""
    source, data = realdata.path_of(model), realdata.TASKS[model].batches("train", IMAGES)
    files = {"original": source}
    makers: dict[str, Callable[[Path], object]] = {
        "int8, activations too": lambda path: int8(source, path, data),
        "8-bit weights": lambda path: decided(source, path, data, weights8),
        "half the weights pruned": lambda path: decided(source, path, data, pruned),
        "low rank": lambda path: decided(source, path, data, factorised),
        "onnxopt optimize": lambda path: onnxopt.optimize(source, path, data=data),
    }
    for name, make in makers.items():
        files[name] = folder / f"{len(files)}.onnx"
        print(f"{model}: {name}", file=sys.stderr)
        make(files[name])
    return files


def study(model: str) -> list[Row]:
    """All files of a model, made and measured."""
    task = realdata.TASKS[model]
    with tempfile.TemporaryDirectory() as folder:
        files = variants(model, Path(folder))
        found = onnxopt.evaluate(list(files.values()), task.batches("test", labelled=True))
        timed = benchmark(list(files.values()), task.batches("test", 32), batches=(1,), seconds=SECONDS)
    pairs = {pair.path: pair for pair in timed.paired}
    rows = []
    for (name, path), seen, cost in zip(files.items(), found.models, timed.models, strict=True):
        quality, pair = seen.classification, pairs.get(str(path))
        assert quality is not None
        tested = seen.deviation.paired if seen.deviation else None
        differs = tested is not None and tested.p < SIGNIFICANT
        rows.append(Row(
            model, name, seen.size, 100 * quality.top1.value, 100 * quality.top1.low, 100 * quality.top1.high,
            100 * quality.precision, 100 * quality.recall, 100 * quality.f1, differs,
            cost.latency.mean_ms, *((pair.ratio, pair.low, pair.high) if pair else (1.0, 1.0, 1.0)),
            "not available" if cost.energy_mj is None else f"{cost.energy_mj:.2f}",
            tuple((op.op, op.share) for op in cost.ops),
        ))  # fmt: skip
        print(f"  {rows[-1]}", file=sys.stderr)
    return rows


def models_table(rows: list[Row]) -> str:
    """Every file."""
    originals = {row.model: row for row in rows if row.variant == "original"}
    lines = []
    for row in rows:
        first = row.variant == "original"
        smaller = originals[row.model].size / row.size
        slower = "" if first else f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})"
        top1 = f"{row.top1:.2f}{' *' if row.differs else ''}"
        lines.append([
            row.model if first else "", row.variant, f"{row.size / 1e6:.2f}", f"{smaller:.2f}x", top1,
            f"{row.low:.1f} to {row.high:.1f}", f"{row.precision:.2f}", f"{row.recall:.2f}", f"{row.f1:.2f}",
            f"{row.ms:.3f}" if first else "", slower, row.energy,
        ])  # fmt: skip
    columns = ["model", "variant", "MB", "smaller", "top-1 %", "95 %", "precision", "recall", "F1", "ms"]
    return markdown([*columns, "time over the original's", "mJ"], "llrrrrrrrrrr", lines) + f"\n\nOn {machine()}."


def means_table(rows: list[Row]) -> str:
    """Each variant over all models."""
    originals = {row.model: row for row in rows if row.variant == "original"}
    lines = []
    for variant in dict.fromkeys(row.variant for row in rows if row.variant != "original"):
        mine = [row for row in rows if row.variant == variant]
        smaller = np.exp(np.mean([np.log(originals[row.model].size / row.size) for row in mine]))
        slower = np.exp(np.mean([np.log(row.ratio) for row in mine]))
        lost = [originals[row.model].top1 - row.top1 for row in mine]
        faster = sum(row.ratio_high < 1 for row in mine)
        late = sum(row.ratio_low > 1 for row in mine)
        lines.append([
            variant, f"{smaller:.2f}x", f"{1 - 1 / smaller:.0%}", f"{np.mean(lost):.2f}", f"{max(lost):.2f}",
            f"{slower:.2f}", f"{faster}", f"{late}",
        ])  # fmt: skip
    columns = ["variant", "smaller", "bytes saved", "points lost, mean", "at most", "time over the original's"]
    return markdown([*columns, "models faster", "slower"], "lrrrrrrr", lines)


def operators_table(rows: list[Row], most: int = 5) -> str:
    """Shares of the time by operator, from the runtime's profile."""
    lines = []
    for row in rows:
        if row.variant in ("original", "int8, activations too", "low rank"):
            shown = ", ".join(f"{op} {share:.0%}" for op, share in row.ops[:most])
            lines.append([row.model if row.variant == "original" else "", row.variant, shown])
    return markdown(["model", "variant", "time by operator"], "lll", lines)


def measure(scope: Scope) -> list[Row]:
    """Every file of every model."""
    return [row for model in scope.models for row in ONNXOPT.once(study, model)]


TABLES = (
    Table("study", "docs/study.md", 45, measure, models_table, MODELS),
    Table("study-means", "docs/study.md", 45, measure, means_table, MODELS),
    Table("study-operators", "docs/study.md", 45, measure, operators_table, MODELS),
)
