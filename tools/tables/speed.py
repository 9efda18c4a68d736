"""Low-rank factorisation that saves bytes or time, as `--for size` and `--for speed` find it, without INT8.

The time is that of the finished file over the source's, in stock ONNX Runtime on one sample, by
`onnxopt.measure.benchmark`; the machine must be idle. One network is synthetic: the last layers of AlexNet and VGG-16.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import onnxopt
from common import networks, realdata
from common.internals import Factorised, low_rank
from common.kept import ONNXOPT
from common.pages import machine, markdown
from common.runs import original
from onnxopt import Contract
from onnxopt.graph import macs, parameters
from onnxopt.measure.benchmark import SpeedRatio, time_ratio
from onnxopt.report.text import size
from tables import Scope, Table

IMAGES = 12_000
"""Of the training part, at most: a quarter is held back to search with."""
SECONDS = 120.0
"""For a comparison of two files."""
FULLY_CONNECTED = "fc 4096-4096-1000"


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    model: str
    goal: str
    contract: Contract


TOP1, NOISE = Contract(max_drop=0.5), Contract(error=0.05)
CAREFUL = Contract(max_drop=0.25)
"""For a network that has memorised its training images: docs/engine.md."""
CASES = (
    Case("resnet56", "speed", CAREFUL),
    Case("squeezenet1.1", "speed", NOISE),
    Case(FULLY_CONNECTED, "speed", NOISE),
    Case("lenet5", "speed", TOP1),
    Case("lenet5", "size", TOP1),
    Case("mobilefacenet", "size", NOISE),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One case, done."""

    case: Case
    found: Factorised
    bytes_after: int
    weights: float
    """How many times fewer weights and biases the network has."""
    macs: float
    """How many times fewer multiply-accumulates it takes."""
    scores: tuple[str, str]
    """The metric before and after; where there is none, nothing and the noise."""
    time: SpeedRatio | None
    """None where only bytes count."""


def row(case: Case) -> Row:
    """Compresses and measures one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source, output = folder / "fc.onnx", folder / "small.onnx"
        if case.model == FULLY_CONNECTED:
            onnx.save(networks.fully_connected(), source)
            data, x = networks.activations, next(networks.activations())[:8]
        else:
            source, task = realdata.path_of(case.model), realdata.TASKS[case.model]
            data = task.batches("train", IMAGES, labelled=case.contract.max_drop is not None)
            x = task.prepare(task.read("test").images[:8])
        found = low_rank(source, output, case.contract, case.goal, data)
        scores = "", f"noise {found.error:.3f}"
        if case.model in realdata.TASKS:
            after = realdata.evaluate(case.model, realdata.registered_session(output)).metric
            scores = f"{original(case.model):.2f} %", f"{after:.2f} %"
        models = onnx.load(source), onnxopt.decompress(output)
        feeds = [{models[0].graph.input[0].name: np.asarray(one[None])} for one in x]
        counted = [sum(macs(model, feeds[0]).values()) for model in models]
        weights = [parameters(model) for model in models]
        time = None if case.goal == "size" else time_ratio(output, source, feeds, SECONDS, lambda share: None)
        bytes_after = output.stat().st_size
    return Row(case, found, bytes_after, weights[0] / weights[1], counted[0] / counted[1], scores, time)


def cells(row: Row) -> list[str]:
    """A row in words."""
    found, time = row.found, ""
    if row.time:
        sure = "" if row.time.significant else ", not significant"
        time = f"{row.time.ratio:.3f} ({row.time.low:.3f} to {row.time.high:.3f}{sure})"
    return [
        row.case.model, row.case.goal, str(row.case.contract), f"{found.factorised} of {found.layers}",
        f"{row.weights:.2f}", f"{row.macs:.2f}", size(found.plain_size), size(row.bytes_after) if found.kept else "",
        *row.scores, time,
    ]  # fmt: skip


def measure(scope: Scope) -> list[Row]:
    """The cases of the models."""
    return [ONNXOPT.once(row, case) for case in CASES if case.model in scope.models]


def render(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    columns = ["model", "for", "asked for", "factorised", "M", "E", "bytes without", "bytes with", "before", "after"]
    return f"{markdown([*columns, 'time'], 'lllrrrrrrrr', map(cells, rows))}\n\n{machine()}."


MODELS = tuple(dict.fromkeys(case.model for case in CASES if case.model != FULLY_CONNECTED))
TABLES = (Table("speed", "docs/lowrank.md", 60, measure, render, MODELS, (FULLY_CONNECTED,)),)
