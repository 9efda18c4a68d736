"""Dynamic INT8 and smoothing: what they compute, and when they are chosen, with a fake clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import model, weights
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import onnxopt
from onnxopt import Contract, OnnxoptError, Result
from onnxopt.graph import channel_ranges, channels_apart, inputs_of, smooth, step_of_value
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step

Array = np.ndarray[Any, Any]
FEW = [3, 70]
"""Channels with large values."""


def inputs(seed: int, rows: int = 256) -> Array:
    """Vectors of which a few channels are 50 times as large as others."""
    x = weights(rows, 128, seed=seed)
    x[:, FEW] *= 50
    return x


def network() -> onnx.ModelProto:
    """Two products of one value, one of another, which has a bias and a transposed weight."""
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["a"]),
        helper.make_node("MatMul", ["x", "w2"], ["b"]),
        helper.make_node("Mul", ["a", "b"], ["h"]),
        helper.make_node("Gemm", ["h", "w3", "b3"], ["y"], transB=1),
    ]
    tensors = {"w1": weights(128, 160, seed=1, scale=0.1), "w2": weights(128, 160, seed=2, scale=0.1),
               "w3": weights(140, 160, seed=3, scale=0.1), "b3": weights(140, seed=4)}  # fmt: skip
    return model(nodes, tensors, {"x": ["n", 128]}, {"y": ["n", 140]})


def run(content: bytes, x: Array) -> Array:
    (y,) = onnxruntime.InferenceSession(content).run(None, {"x": x})
    return np.asarray(y)


# ---- smoothing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [17, 18])
@given(apart=st.integers(0, 8))
def test_smoothing_changes_no_output(opset: int, apart: int) -> None:
    made, x = network(), inputs(5)
    made.opset_import[0].version = opset
    wanted = run(made.SerializeToString(), x)
    ranges = channel_ranges(made, inputs_of(made, ["x", "h"]), [{"x": x[:128]}, {"x": x[128:]}])
    smooth(made, {value: one.smoothing(apart) for value, one in ranges.items()})
    onnx.checker.check_model(made, full_check=True)
    assert np.abs(run(made.SerializeToString(), x) - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_scales_are_powers_of_two_and_bring_channels_together() -> None:
    made, x = network(), inputs(5)
    (ranges,) = channel_ranges(made, inputs_of(made, ["x"]), [{"x": x}]).values()
    assert np.array_equal(ranges.high[0], np.maximum(x.max(0), 0))
    assert np.array_equal(ranges.low[0], np.minimum(x.min(0), 0))
    smoothing = ranges.smoothing(0)
    assert (np.frexp(smoothing.scales)[0] == 0.5).all()
    before, after = (np.abs(one).max(0) for one in (x, x * smoothing.factors))
    assert after.max() / np.median(after) < 0.3 * before.max() / np.median(before)
    assert ranges.smoothing(2).apart == tuple(FEW)
    assert not ranges.smoothing(2).factors[FEW].any()
    assert ranges.squared_range(ranges.smoothing(2)) < 0.1 * ranges.squared_range(smoothing)


@pytest.mark.parametrize("value", [0.0, np.inf])
def test_values_without_peaks_stay(value: float) -> None:
    made = network()
    (ranges,) = channel_ranges(made, inputs_of(made, ["x"]), [{"x": np.full((2, 128), value, np.float32)}]).values()
    assert (ranges.smoothing(4).scales == 1).all()
    assert not ranges.smoothing(4).apart


def test_steps_of_values() -> None:
    assert str(step_of_value(smoothed=4, dynamic=True)) == "smooth{apart=4} > dynamic"
    assert str(step_of_value(smoothed=0)) == "smooth"
    assert channels_apart(Step.parse("smooth{apart=3}")) == 3
    assert channels_apart(Step.parse("dynamic")) is None
    for wrong in ("smooth{apart=-1}", "smooth{apart=true}", "smooth{strength=1}"):
        with pytest.raises(OnnxoptError, match="expected smooth, or smooth"):
            channels_apart(Step.parse(wrong))


# ---- the strategy ----------------------------------------------------------------------------------------------------


class Machine:
    """A clock on which products of integers take a share of the time, and nothing else saves any."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        return [1.0] * len(models)

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        return {}

    def race(self, models: Sequence[Path], against: Path, feeds: object, advance: object) -> list[SpeedRatio]:
        ratios = [self.ratio if "MatMulInteger" in ops(onnx.load(path)) else 1.0 for path in models]
        return [SpeedRatio(str(p), str(against), r, r - 0.01, r + 0.01, True, True)
                for p, r in zip(models, ratios, strict=True)]  # fmt: skip


def ops(made: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in made.graph.node]


def optimized(folder: Path, ratio: float = 0.5, rules: str = "", error: float = 0.06) -> Result:
    onnx.save(network(), folder / "m.onnx")
    np.save(folder / "x.npy", inputs(5, 512))
    return onnxopt.optimize(
        folder / "m.onnx", folder / "small.onnx", Contract(error=error), folder / "x.npy", goal="speed",
        overrides=Overrides.parse(rules), clock=Machine(ratio),
    )  # fmt: skip


def found(result: Result) -> StrategyReport:
    one = result.strategy("dynamic")
    assert one is not None
    return one


def test_products_multiply_integers_where_that_saves_time(tmp_path: Path) -> None:
    result = optimized(tmp_path)
    assert found(result).kept
    assert [(row["path"], row["accepted"]) for row in found(result).layers] == [
        ("w1", True), ("w2", True), ("w3", True),
    ]  # fmt: skip
    plain = onnxopt.decompress(tmp_path / "small.onnx")
    assert ops(plain).count("MatMulInteger") == 3
    assert ops(plain).count("DynamicQuantizeLinear") == 2
    wanted, got = ([run(made.SerializeToString(), x[None]) for x in inputs(7, 50)] for made in (network(), plain))
    assert np.linalg.norm(np.subtract(got, wanted)) <= 0.07 * np.linalg.norm(wanted)


def test_channels_with_large_values_go_apart(tmp_path: Path) -> None:
    result = optimized(tmp_path, error=0.03)
    steps = {path: str(step) for path, step in result.plan.steps.items()}
    assert steps["x"] == "smooth{apart=4}"
    assert steps["x@smoothed"] == "dynamic"
    assert steps["w1"].endswith("> integers")
    assert steps["w1@apart"].startswith("feedback")


def test_its_plan_makes_the_same_file(tmp_path: Path) -> None:
    result = optimized(tmp_path)
    plan = Plan.from_json(result.plan.to_json())
    onnxopt.apply(tmp_path / "m.onnx", plan, tmp_path / "again.onnx", tmp_path / "x.npy")
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "small.onnx").read_bytes()


def test_what_saves_no_time_stays(tmp_path: Path) -> None:
    result = optimized(tmp_path, ratio=0.97)
    assert not found(result).kept
    assert "takes 0.970x the time" in found(result).reason
    assert not any(row["accepted"] for row in found(result).layers)


def test_what_rules_decide_is_not_asked_for(tmp_path: Path) -> None:
    """A product that shares its input with one that they decide stays, too."""
    result = optimized(tmp_path, rules='[[rule]]\nmatch = "w1"\nmax_bits = 8\n')
    assert [row["path"] for row in found(result).layers] == ["w3"]


def test_a_bound_leaves_products_in_floats(tmp_path: Path) -> None:
    result = optimized(tmp_path, error=1e-4)
    assert not found(result).kept
    assert result.kept is not None and result.kept.error is not None and result.kept.error <= 1e-4


def test_a_value_that_no_product_reads_is_said(tmp_path: Path) -> None:
    result = optimized(tmp_path)
    for value, step in (("y", "smooth"), ("y", "dynamic"), ("none", "dynamic")):
        steps = {**result.plan.steps, value: Step.parse(step)}
        plan = Plan(result.plan.model_sha256, steps, result.plan.data)
        with pytest.raises(OnnxoptError, match=f"value '{value}': no matrix product multiplies it"):
            onnxopt.apply(tmp_path / "m.onnx", plan, tmp_path / "again.onnx", tmp_path / "x.npy")


def test_a_model_of_small_products_is_not_asked(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    onnx.save(model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]}), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", weights(64, 64))
    result = onnxopt.optimize(
        tmp_path / "m.onnx", tmp_path / "s.onnx", None, tmp_path / "x.npy", goal="speed", clock=Machine(0.5)
    )
    assert result.strategy("dynamic") is None
