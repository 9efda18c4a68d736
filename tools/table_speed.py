"""Chains that save bytes or time, as `--for size` and `--for speed` find them; rewrites docs/lowrank.md.

    python tools/table_speed.py                          # an hour; the machine must have nothing else to do
    python tools/table_speed.py --only "lenet5 speed"    # the other rows stay as they are
    python tools/table_speed.py --only fc --print

Chains alone: nothing runs in integers, which `--for speed` weighs, too. The time is that of the finished file against
the source, in stock ONNX Runtime on one sample, by `onnxopt.measure.benchmark`. One network is made up: the last layers
of AlexNet and VGG-16, with singular values 1, 1/2, 1/3, ... of random directions.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import realdata
from generated import END, machine, markdown, rewrite
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt import Contract
from onnxopt.build.workspace import Workspace
from onnxopt.graph import macs, parameters, read
from onnxopt.measure.benchmark import SpeedRatio, time_ratio
from onnxopt.report.text import size
from onnxopt.results.result import Factoring
from onnxopt.search.allocation import Goal
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.overrides import Overrides
from onnxopt.strategies.low_rank import factored

DOCUMENT = Path(__file__).resolve().parents[1] / "docs" / "lowrank.md"
START = "<!-- table:speed -->"
Array = npt.NDArray[Any]

IMAGES = 12_000
"""Of the training part, at most: a quarter is held back to search with."""
SECONDS = 120.0
"""For a comparison of two files."""
_STARTED, _SAID = monotonic(), set[str]()
FULLY_CONNECTED = "fc 4096-4096-1000"
FACTORS = 256
"""That its inputs are mixtures of."""
COLUMNS = "model", "for", "asked for", "chains", "M", "E", "without chains", "with", "before", "after", "time"
ALIGN = "lllrrrrrrrr"


@dataclass(frozen=True, slots=True)
class Case:
    """A row of the table."""

    model: str
    goal: str
    contract: Contract

    @property
    def name(self) -> str:
        """What `--only` takes."""
        return f"{self.model} {self.goal}"


TOP1, NOISE = Contract(max_drop=0.5), Contract(error=0.05)
CAREFUL = Contract(max_drop=0.25)
"""For a network that knows its training images by heart: docs/engine.md."""
CASES = [
    Case("resnet56", "speed", CAREFUL),
    Case("squeezenet1.1", "speed", NOISE),
    Case(FULLY_CONNECTED, "speed", NOISE),
    Case("lenet5", "speed", TOP1),
    Case("lenet5", "size", TOP1),
    Case("mobilefacenet", "size", NOISE),
]


def fully_connected(path: Path) -> None:
    """fc7 and fc8 of AlexNet and VGG-16, as a model of [n, 4096]."""
    rng, widths = np.random.default_rng(0), (4096, 4096, 1000)
    nodes, tensors, x = [], [], "x"
    for index, (inputs, outputs) in enumerate(pairwise(widths), 7):
        rank = min(inputs, outputs)  # directions of so many dimensions are all but orthogonal
        u = rng.standard_normal((outputs, rank), np.float32) / np.float32(outputs**0.5)
        v = rng.standard_normal((rank, inputs), np.float32) / np.float32(inputs**0.5)
        w = (u / np.arange(1, rank + 1, dtype=np.float32)) @ v * np.float32(inputs**0.5)
        b = rng.standard_normal(outputs, np.float32) / 100
        tensors += [numpy_helper.from_array(w, f"fc{index}.w"), numpy_helper.from_array(b, f"fc{index}.b")]
        last = index == 8
        nodes.append(
            helper.make_node("Gemm", [x, f"fc{index}.w", f"fc{index}.b"], [f"y{index}"], f"fc{index}", transB=1)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"y{index}"], [f"a{index}"]))
        x = f"y{index}" if last else f"a{index}"
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("x", 4096), (x, 1000))
    ]
    graph = helper.make_graph(nodes, "fc", values[:1], values[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def activations() -> Iterator[Array]:
    """What a rectifier lets through of mixtures of few factors, [32, 4096] each."""
    rng = np.random.default_rng(1)
    mix = (
        rng.standard_normal((FACTORS, 4096), np.float32) / np.sqrt(np.arange(1, FACTORS + 1, dtype=np.float32))[:, None]
    )
    for _ in range(48):
        yield np.maximum(rng.standard_normal((32, FACTORS), np.float32) @ mix, 0)


@dataclass(frozen=True, slots=True)
class Measured:
    """One case, done."""

    case: Case
    found: Factoring
    bytes_after: int
    weights: float
    """How many times fewer weights and biases the network has."""
    macs: float
    """How many times fewer multiply-accumulates it takes."""
    scores: tuple[str, str]
    """The metric before and after; or nothing, and the noise."""
    time: SpeedRatio | None
    """None where only bytes count."""

    def cells(self) -> list[str]:
        """Of its row."""
        accepted = sum(one.accepted for one in self.found.layers)
        with_chains, time = size(self.bytes_after) if self.found.kept else "", ""
        if self.time:
            sure = "" if self.time.significant else ", not significant"
            time = f"{self.time.ratio:.3f} ({self.time.low:.3f} to {self.time.high:.3f}{sure})"
        return [
            self.case.model, self.case.goal, str(self.case.contract), f"{accepted} of {len(self.found.layers)}",
            f"{self.weights:.2f}", f"{self.macs:.2f}", size(self.found.plain.size), with_chains, *self.scores, time,
        ]  # fmt: skip


def compress(case: Case, source: Path, output: Path, data: Any) -> Factoring:
    """The file with the chains that pay."""
    engine = Workspace(read(source), False, "balanced", 2**31, progress)
    tuner = ContractSearch(engine, case.contract, Overrides())
    tuner.calibrate(data, None)
    best, met = tuner.run()
    assert met
    with factored(tuner, best, Goal(case.goal), progress) as found:
        built = found.tuner.engine.build(found.tuner.plan(found.best), lambda share: None)
        found.tuner.engine.write(built, output)
    engine.close(keep=False)
    return found.factoring


def progress(what: str, share: float) -> None:
    """On standard error, once each."""
    if what not in _SAID:
        _SAID.add(what)
        print(f"{monotonic() - _STARTED:.0f} s: {what}", file=sys.stderr)


def measure(case: Case, folder: Path) -> Measured:
    """Compresses and measures one."""
    output = folder / "small.onnx"
    if case.model == FULLY_CONNECTED:
        source, data = folder / "fc.onnx", activations
        fully_connected(source)
        feeds = [{"x": row[None]} for row in next(activations())[:8]]
    else:
        source = realdata.MODELS / f"{case.model}.onnx"
        task = realdata.TASKS[case.model]
        data = task.batches("train", IMAGES, labelled=case.contract.max_drop is not None)
        images = task.read("test").images[:8]
        name = onnx.load(source, load_external_data=False).graph.input[0].name
        feeds = [{name: task.prepare(images[i : i + 1])} for i in range(8)]
    found = compress(case, source, output, data)
    kept = found.chained if found.kept and found.chained else found.plain
    scores = "", f"noise {kept.error:.3f}"
    if case.model in realdata.TASKS:
        sessions = realdata.plain_session(source), realdata.registered_session(output)
        before, after = (realdata.evaluate(case.model, session).metric for session in sessions)
        scores = f"{before:.2f} %", f"{after:.2f} %"
    models = onnx.load(source), onnxopt.decompress(output)
    counted = [sum(macs(model, feeds[0]).values()) for model in models]
    weights = [parameters(model) for model in models]
    time = time_ratio(output, source, feeds, SECONDS, lambda share: None) if Goal(case.goal).timed else None
    bytes_after = output.stat().st_size
    return Measured(case, found, bytes_after, weights[0] / weights[1], counted[0] / counted[1], scores, time)


def known() -> dict[str, list[str]]:
    """The rows that the document has."""
    text = DOCUMENT.read_text(encoding="utf-8").partition(START)[2].partition(END)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return {f"{row[0]} {row[1]}": row for row in rows[2:]}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="Chains of layers where they pay, on real models.")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of rows, as in 'lenet5 speed'")
    parser.add_argument("--print", action="store_true", help="only print the rows")
    arguments = parser.parse_args()
    for case in CASES:
        if not case.name.startswith(tuple(arguments.only)):
            continue
        with tempfile.TemporaryDirectory() as folder:
            done = measure(case, Path(folder))
        print(markdown(COLUMNS, ALIGN, [done.cells()]).splitlines()[-1], flush=True)
        if done.found.time:
            print(f"with chains {done.found.time.ratio:.3f}x the time, neither quantized", file=sys.stderr)
        for one in done.found.layers:
            coded = f"{one.bytes_before:.0f} -> {one.bytes_after:.0f} bytes"
            print(f"  {one.path}: {one.step} {one.reason or coded}", file=sys.stderr)
        if not arguments.print:
            rows = known() | {case.name: done.cells()}
            every = [rows[one.name] for one in CASES if one.name in rows]
            rewrite(DOCUMENT, f"{markdown(COLUMNS, ALIGN, every)}\n\n{machine()}.", START)
    return 0


if __name__ == "__main__":
    sys.exit(main())
