"""Tuning of what rounds values at run time, and of the floats beside the layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from differences import node
from onnx import numpy_helper

import onnxopt
from onnxopt import Contract
from onnxopt.encoding import Affine, Raw, step_of
from onnxopt.graph.rewrite import dynamic_int8
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.spec.plan import Plan, Step
from onnxopt.tuning import stage
from onnxopt.tuning.kinds import Scale, Weight
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.ranges import Ranges
from onnxopt.tuning.student import Lesson, Student
from onnxopt.tuning.weights import Weights

Array = np.ndarray[Any, Any]

EPSILON = 1e-5
PAIR = QuantParams(0.015, 100, "uint8")
"""Saturates on both sides in the test."""


def rounded() -> onnx.ModelProto:
    """x[n, 6] -> MatMul -> PRelu -> h -> LayerNormalization -> n -> MatMul -> y[n, 5]; h and n are to be rounded."""
    nodes = [
        node("MatMul", ["x", "first"], ["a"]),
        node("PRelu", ["a", "slopes"], ["h"]),
        node("LayerNormalization", ["h", "gamma", "beta"], ["n"], epsilon=EPSILON),
        node("MatMul", ["n", "last"], ["y"]),
    ]
    tensors = {
        "first": weights(6, 8), "slopes": weights(8, seed=1), "gamma": 1 + weights(8, seed=2, scale=0.1),
        "beta": weights(8, seed=3), "last": weights(8, 5, seed=4),
    }  # fmt: skip
    return model(nodes, tensors, {"x": ["n", 6]}, {"y": ["n", 5]})


class StraightThrough:
    """The model in float64, where rounding adds the same numbers as at the weights that it is made with."""

    def __init__(self, x: Array, given: dict[str, Array]) -> None:
        self._x, self._rests = x.astype(np.float64), dict[str, Array]()
        self.run(given)

    def run(self, given: dict[str, Array]) -> Array:
        w = {name: array.astype(np.float64) for name, array in given.items()}
        a = self._x @ w["first"]
        h = np.where(a > 0, a, a * w["slopes"]) / w["h@range"]
        low, high = PAIR.levels
        inside = (h > low) & (h < high)
        h = np.where(inside, h + self._rest("h", np.rint(h) - h), np.clip(h, low, high)) * w["h@range"]
        centred = h - h.mean(1, keepdims=True)
        n = centred / np.sqrt(np.square(centred).mean(1, keepdims=True) + EPSILON) * w["gamma"] + w["beta"]
        least, most = min(0.0, n.min()), max(0.0, n.max())
        step = (most - least) / 255
        zero = np.rint(-least / step)
        n = n + self._rest("n", (np.clip(np.rint(n / step) + zero, 0, 255) - zero) * step - n)
        return np.asarray(n @ w["last"])

    def _rest(self, name: str, found: Array) -> Array:
        return self._rests.setdefault(name, found)


def test_gradients_pass_rounding_and_reach_its_scale() -> None:
    source = rounded()
    steps = {"h": PAIR.step(), "n": Step("dynamic")}
    ranges = Ranges.of(source, steps)
    changed = ranges.rounded(source, steps)
    dynamic_int8.round_inputs(changed, ["n"], ["last"])
    onnx.checker.check_model(changed, full_check=True)
    given = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    given = {name: array for name, array in given.items() if array.dtype == np.float32}
    assert given.keys() == {"first", "slopes", "gamma", "beta", "last", "h@range"}
    x, loss = weights(16, 6, seed=5), Loss(answers=False)
    through = StraightThrough(x, given)
    student = Student(changed, list(given), list(given), loss)
    starts, unsupported = student.survey({"x": x}, given)
    assert not unsupported
    wanted = np.asarray(through.run(given) + weights(16, 5, seed=6), np.float32)
    loss.learn(starts, 16, [{"y": wanted}])

    def distance(changed: dict[str, Array]) -> float:
        return float(np.square(through.run({**given, **changed}) - wanted).sum() / np.square(wanted).sum())

    found, gradient = student.gradient(Lesson(16, {"x": x}, {"y": wanted}), given)
    assert found == pytest.approx(distance({}), rel=1e-4)
    for name, values in given.items():
        for index in range(values.size):
            ends = []
            for step in (-1e-6, 1e-6):
                other = values.astype(np.float64)
                other.flat[index] += step
                ends.append(distance({name: other}))
            slope = (ends[1] - ends[0]) / 2e-6
            assert gradient[name].flat[index] == pytest.approx(slope, rel=2e-3, abs=1e-5), name


def test_moved_values_share_a_scale_and_clipped_ones_do_not_grow() -> None:
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("Clip", ["a", "low", "high"], ["b"]),
        node("MaxPool", ["b"], ["c"], kernel_shape=[2, 2]),
        node("Conv", ["c", "w"], ["y"]),
    ]
    tensors = {"w": weights(3, 3, 1, 1), "low": np.float32(0), "high": np.float32(6)}
    made = model(nodes, tensors, {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, "h", "w"]})
    pair, other = QuantParams(6 / 255, 0, "uint8"), QuantParams(0.1, 128, "uint8")
    steps = {"b": pair.step(), "c": pair.step(), "y": Step("equalize", (), other.step())}
    ranges = Ranges.of(made, steps)
    assert ranges.values == {"b@range": ("b", "c"), "y@range": ("y",)}
    scales = {path: ranges.weight(path, one) for path, one in ranges.stored(steps).items()}
    trained = Weights(list(scales.values()), {path: one.start for path, one in scales.items()}, near=False)
    trained.masters += 1
    trained.settle()
    plan = ranges.planned(Plan("", steps), trained.stored())
    assert plan.steps["b"] == plan.steps["c"] == QuantParams(float(np.float32(6 / 255)), 0, "uint8").step()
    assert str(plan.steps["y"]).startswith("equalize > qdq{scale=0.125")


def test_scales_stay_above_zero() -> None:
    trained = Weights([Scale("s", np.float32(0.5).reshape(()), True)], {"s": np.asarray(0.5, np.float32)}, near=False)
    trained.masters -= 1000
    trained.settle()
    assert trained.stored()["s"].values() > 0


def test_slopes_and_parameters_of_normalizations_are_tuned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage._Rounds, "_is_better", lambda rounds, best, kept: True)
    nodes = [
        node("MatMul", ["x", "first"], ["h"]),
        node("LayerNormalization", ["h", "gamma", "beta"], ["n"]),
        node("MatMul", ["n", "last"], ["a"]),
        node("PRelu", ["a", "slopes"], ["y"]),
    ]
    tensors = {
        "first": weights(16, 64), "gamma": 1 + weights(64, seed=2, scale=0.1), "beta": np.zeros(64, np.float32),
        "last": weights(64, 8, seed=4), "slopes": weights(8, seed=3),
    }  # fmt: skip
    onnx.save(model(nodes, tensors, {"x": ["n", 16]}, {"y": ["n", 8]}), tmp_path / "in.onnx")
    np.save(tmp_path / "x.npy", weights(1024, 16, seed=5))
    done = onnxopt.optimize(tmp_path / "in.onnx", tmp_path / "out.onnx", Contract(target_ratio=5), tmp_path / "x.npy",
                            tune="3epochs")  # fmt: skip
    assert "beta" not in done.values  # zeros take no bytes
    for path in ("gamma", "slopes"):
        assert isinstance(done.values[path], Raw)
        assert (done.values[path].values() != tensors[path]).any()
    onnxopt.apply(tmp_path / "in.onnx", done.plan, tmp_path / "applied.onnx", tmp_path / "x.npy", done.values)
    assert (tmp_path / "applied.onnx").read_bytes() == (tmp_path / "out.onnx").read_bytes()


@pytest.mark.parametrize("steps", [1, 3])
def test_gradients_of_steps_are_those_of_rounding_straight_through(steps: int) -> None:
    w, k = weights(4, 3), np.array([-3, -1, 2][:steps], np.int16)
    grid = Affine(np.rint(w / step_of(k)).astype(np.int32), k, 1, np.dtype(np.float32))
    trained = Weights([Weight.of("w", grid)], {"w": w}, near=False)
    g, bits = weights(4, 3, seed=1), weights(12, seed=2)
    found = trained.gradient({"w": g}, bits)[12:]
    assert found.shape == (steps,)
    rest, double = np.rint(w / step_of(k)) - w / step_of(k), w.astype(np.float64)

    def loss(moved: Array) -> float:
        s = step_of(k) * 2.0 ** (moved * 0.3 / 4)  # a unit is 0.3 quarters of an octave
        return float((g * (double + rest * s)).sum() + 0.5 * (bits.reshape(4, 3) * (double / s)).sum())

    for index in range(steps):
        ends = [loss(np.eye(steps)[index] * end) for end in (-1e-6, 1e-6)]
        assert found[index] == pytest.approx((ends[1] - ends[0]) / 2e-6, rel=1e-4)


def test_steps_move_in_quarters_of_an_octave_and_leave_weights_where_they_are() -> None:
    w, k = weights(40, 3), np.array([-20, -18, -22], np.int16)
    grid = Affine(np.rint(w / step_of(k)).astype(np.int32), k, 1, np.dtype(np.float32))
    trained = Weights([Weight.of("w", grid)], {"w": w}, near=False)
    start = trained.masters.copy()
    trained.masters[-3:] = np.array([0.5, 0.7, -1.1]) / 0.3
    trained.settle()
    np.testing.assert_array_equal(trained.steps, [0, 1, -1])
    np.testing.assert_allclose(trained.values()["w"], w, rtol=1e-5)
    stored = trained.stored()["w"]
    assert isinstance(stored, Affine)
    np.testing.assert_array_equal(stored.k - k, [0, 1, -1])
    np.testing.assert_array_equal(stored.values(), trained.seen()["w"])
    masters, steps = trained.masters.copy(), trained.steps
    trained.restore(start)
    np.testing.assert_array_equal(trained.masters, start)
    np.testing.assert_array_equal(trained.steps, 0)
    trained.restore(masters, steps)
    np.testing.assert_array_equal(trained.stored()["w"].values(), stored.values())


def test_steps_that_a_recipe_decides_on_stay() -> None:
    grid = Affine(np.array([[1, 2]], np.int32), np.array([-8], np.int16), 0, np.dtype(np.float32))
    trained = Weights([Weight.of("w", grid, fixed=True)], {"w": grid.values() + 0.1}, near=False)
    assert trained.gradient({"w": weights(1, 2)}, weights(2))[-1] == 0
