"""Tests `onnxopt benchmark` on known differences: a model against itself, and against one with 10 % more work.

    python tools/bench_self.py                   # models/digits.onnx, 20 times: some 20 minutes
    python tools/bench_self.py MODEL --runs 5

The machine must be idle. The right answers are "no significant difference" in at least 19 of 20 runs of a model against
itself, and a significant slow-down for 22 equal layers against 20.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxopt.measure.benchmark import SpeedRatio, benchmark

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"
WIDTH = 512


def stack(layers: int) -> onnx.ModelProto:
    """x[n, WIDTH] through `layers` products with the same square matrix."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32) / np.float32(WIDTH**0.5)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"h{i}", "w"], [f"h{i + 1}"]) for i in range(layers)],
        "stack",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, ["n", WIDTH])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, ["n", WIDTH])],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def compare(model: Path, against: Path, batch: int) -> SpeedRatio:
    """One benchmark of two models, and its line."""
    found = benchmark([against, model], batches=[batch])
    (pair,) = found.paired
    latency = found.models[0].latency
    print(
        f"{pair.ratio:.3f} ({pair.low:.3f} to {pair.high:.3f}){' significant' if pair.significant else ''}, "
        f"{found.processes} processes, {latency.mean_ms:.3g} ms{'' if latency.settled else ' not settled'}, "
        f"load {found.machine.load:.1f}",
        flush=True,
    )
    return pair


def main() -> None:
    """Prints a line for each run, and the counts."""
    parser = argparse.ArgumentParser(description="Benchmarks of models whose difference is known.")
    parser.add_argument("model", nargs="?", type=Path, default=DIGITS, help="to be run against itself")
    parser.add_argument("--runs", type=int, default=20, help="of it")
    arguments = parser.parse_args()
    wrong = sum(compare(arguments.model, arguments.model, 1).significant for _ in range(arguments.runs))
    with tempfile.TemporaryDirectory() as folder:
        base, slower = Path(folder) / "base.onnx", Path(folder) / "slower.onnx"
        onnx.save(stack(20), base)
        onnx.save(stack(22), slower)
        planted = compare(slower, base, 16)
    right = arguments.runs - wrong
    print(f"{arguments.model.name} against itself: no significant difference in {right} of {arguments.runs} runs")
    found = "found" if planted.significant and planted.ratio > 1 else "MISSED"
    print(f"10 % more work: {found}, {planted.ratio:.3f}x ({planted.low:.3f} to {planted.high:.3f})")


if __name__ == "__main__":
    main()
