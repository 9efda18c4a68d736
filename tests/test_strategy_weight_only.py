"""Weight-only quantization at run time (MatMulNBits), chosen with a fake clock."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper

import onnxopt
from onnxopt import Contract, Result
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.overrides import Overrides

Array = np.ndarray[Any, Any]


def large() -> onnx.ModelProto:
    """Three products, the last of few weights."""
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("MatMul", ["a", "w2"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"]),
    ]
    tensors = {"w1": weights(160, 128, scale=0.1), "b1": weights(160, seed=1), "w2": weights(160, 128, seed=2),
               "w3": weights(128, 10, seed=3)}  # fmt: skip
    return model(nodes, tensors, {"x": ["n", 128]}, {"y": ["n", 10]})


class Machine:
    """A clock: milliseconds of a layer as it is, with 4 and with 8 bits, each in blocks of 128 and of 32; and the whole
    model's time. Nothing else saves time."""

    def __init__(self, times: Sequence[float], ratio: float) -> None:
        self.times, self.ratio = list(times), ratio
        self.seen: list[list[bytes]] = []
        """The models of each race."""

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        return list(self.times) if len(models) == len(self.times) else [1.0] * len(models)

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        return {}

    def race(self, models: Sequence[Path], against: Path, feeds: object, advance: object) -> list[SpeedRatio]:
        self.seen.append([path.read_bytes() for path in (*models, against)])
        weight_only = "MatMulNBits" in ops(self.seen[-1][0])
        ratio = self.ratio if weight_only else 1.0
        return [SpeedRatio(str(p), str(against), ratio, ratio - 0.01, ratio + 0.01, weight_only, True) for p in models]


def optimized(folder: Path, machine: Machine, rules: str = "", contract: Contract | None = None) -> Result:
    onnx.save(large(), folder / "m.onnx")
    np.save(folder / "x.npy", weights(256, 128, seed=5) @ weights(128, 128, seed=6) * 0.1)
    return onnxopt.optimize(
        folder / "m.onnx", folder / "small.onnx", contract or Contract(error=0.1), folder / "x.npy", goal="speed",
        overrides=Overrides.parse(rules), clock=machine,
    )  # fmt: skip


def found(result: Result) -> StrategyReport:
    one = result.strategy("weight_only")
    assert one is not None
    return one


def ops(content: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_model_from_string(content).graph.node]


def test_what_saves_time_alone_and_together_is_in_the_file(tmp_path: Path) -> None:
    machine = Machine([1.0, 0.9, 0.9, 0.5, 0.6], 0.6)
    result = optimized(tmp_path, machine)
    assert found(result).kept
    assert [(row["path"], row["step"], row["accepted"]) for row in found(result).layers] == [
        ("w1", "nbits{bits=8,block=128}", True), ("w2", "nbits{bits=8,block=128}", True),
    ]  # fmt: skip
    steps = {path: str(step) for path, step in result.plan.steps.items()}
    assert steps["w1"] == steps["w2"] == "nbits{bits=8,block=128}"
    assert steps["w3"].startswith("feedback")
    assert result.kept is not None
    assert result.kept.error is not None
    assert result.kept.error <= 0.1
    (race,) = [models for models in machine.seen if "MatMulNBits" in ops(models[0])]
    assert [ops(made).count("MatMulNBits") for made in race] == [2, 0]
    assert ops(race[1]) == [node.op_type for node in large().graph.node]


@pytest.mark.slow
def test_a_size_is_kept(tmp_path: Path) -> None:
    """That bounds no noise: products may make as much as a file of that size has."""
    result = optimized(tmp_path, Machine([1.0, 0.9, 0.9, 0.5, 0.6], 0.6), contract=Contract(target_size=80_000))
    assert found(result).kept
    assert result.bytes_after <= 80_000


@pytest.mark.parametrize(
    ("times", "ratio", "reason"),
    [
        ([1.0, 1.1, 1.0, 0.99, 0.98], 0.5, "no product is faster"),
        ([1.0, 0.5, 0.5, 0.5, 0.5], 1.1, r"takes 1\.100x the time"),
    ],
)
def test_what_saves_no_time_stays(times: list[float], ratio: float, reason: str, tmp_path: Path) -> None:
    result = optimized(tmp_path, Machine(times, ratio))
    assert not found(result).kept
    assert re.search(reason, found(result).reason)
    assert not any(row["accepted"] for row in found(result).layers)
    assert "nbits" not in str(result.plan.steps)


def test_what_rules_decide_is_not_asked_for(tmp_path: Path) -> None:
    machine = Machine([1.0, 0.5, 0.5, 0.5, 0.5], 0.5)
    result = optimized(tmp_path, machine, '[[rule]]\nmatch = "w1"\nmax_bits = 8\n')
    assert [row["path"] for row in found(result).layers] == ["w2"]
    assert any(step.name == "feedback" for step in result.plan.steps.values())


class Both(Machine):
    """INT8 saves time in a Gemm alone; products of 8-bit weights do in any; each halves the time of the model.

    INT8 with ranges that each run takes saves none.
    """

    def __init__(self) -> None:
        super().__init__([1.0, 0.9, 0.9, 0.5, 0.6], 0.5)

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        nodes = onnx.load_model_from_string(model).graph.node
        rounded = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        times = {"Gemm": (1.0, 0.1), "MatMul": (1.0, 3.0)}
        return {
            node.name or node.output[0]: times.get(node.op_type, (0.0, 0.0))[not rounded.isdisjoint(node.input)]
            for node in nodes
        }

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        if any("MatMulNBits" in ops(one) for one in models):
            return super().time_many(models, feeds)
        return [1e-6 if len(ops(one)) == 1 else sum(self.profile(one, feeds).values()) for one in models]

    def race(self, models: Sequence[Path], against: Path, feeds: object, advance: object) -> list[SpeedRatio]:
        self.seen.append([path.read_bytes() for path in (*models, against)])
        ratios = [1.0 if "MatMulInteger" in ops(one) else 0.5 for one in self.seen[-1]]
        return [SpeedRatio(str(path), str(against), r, r - 0.01, r + 0.01, r < 1, True)
                for path, r in zip(models, ratios, strict=False)]  # fmt: skip


def test_products_that_int8_leaves_as_they_are_keep_integers_beside_it(tmp_path: Path) -> None:
    machine = Both()
    result = optimized(tmp_path, machine)
    steps = {path: str(step) for path, step in result.plan.steps.items()}
    assert steps["w1"].endswith("integers") and steps["w2"] == "nbits{bits=8,block=128}"
    int8 = result.strategy("int8")
    assert int8 is not None and int8.kept and found(result).kept
    assert [row["path"] for row in found(result).layers] == ["w2"]
    assert [one.name for one in result.strategies].count("weight_only") == 1
    last = [ops(made) for made in machine.seen[-1]]
    assert all("QuantizeLinear" in one for one in last) and ["MatMulNBits" in one for one in last] == [True, False]
    assert result.kept is not None and result.kept.error is not None and result.kept.error <= 0.1
