"""Tuning of layers that run in INT8."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import residual
from test_pairs import X
from test_strategy_dynamic import Machine as Products
from test_strategy_dynamic import inputs, network
from test_strategy_int8 import Machine, data, source  # noqa: F401 (fixtures)

import onnxopt
from onnxopt import Contract
from onnxopt.encoding import Affine
from onnxopt.graph.rewrite import round_outputs
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.search.slope import Trial
from onnxopt.tuning import stage, trainee
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.student import Lessons
from onnxopt.tuning.weights import Weights


@pytest.mark.slow  # 3 s: a whole run
def test_int8_layers_are_tuned_as_they_run(
    source: Path,  # noqa: F811
    data: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def is_better(rounds: stage._Rounds, best: stage._Round, kept: Trial) -> bool:
        """Whatever the size; what training sees is what the file does, there on blends."""
        work, plan = rounds._work, rounds._decided.plan
        assert rounds._trainee.distance(work, plan) ** 0.5 == pytest.approx(kept.error, rel=0.1)
        assert rounds._trainee.distance(best.work, best.plan) ** 0.5 == pytest.approx(best.trial.error, rel=0.1)
        return True

    monkeypatch.setattr(stage._Rounds, "_is_better", is_better)
    out = tmp_path / "out.onnx"
    done = onnxopt.optimize(source, out, Contract(error=0.3), data, clock=Machine(), goal="speed", tune="8epochs")
    assert done.strategy("int8")
    ends = [str(step).endswith("> tuned > integers") for step in done.plan.steps.values() if step.name == "feedback"]
    assert ends
    assert all(ends)
    before = onnxopt.optimize(source, tmp_path / "plain.onnx", Contract(error=0.3), data, clock=Machine(), goal="speed")
    scales = [{str(step) for step in one.plan.steps.values() if "qdq" in str(step)} for one in (before, done)]
    assert scales[0] != scales[1]
    onnxopt.apply(source, done.plan, tmp_path / "applied.onnx", data, done.values)
    assert (tmp_path / "applied.onnx").read_bytes() == out.read_bytes()


def test_inputs_that_each_run_rounds_by_its_range_are_rounded_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = list[tuple[float, float]]()

    def is_better(rounds: stage._Rounds, best: stage._Round, kept: Trial) -> bool:
        seen.append((rounds._trainee.distance(rounds._work, rounds._decided.plan) ** 0.5, kept.error or 0.0))
        return True

    monkeypatch.setattr(stage._Rounds, "_is_better", is_better)
    monkeypatch.setattr(stage, "is_once", lambda work, contract: True)
    monkeypatch.setattr(trainee, "Lessons", lambda *given: Lessons(*given[:4]))  # without blends, as files are measured
    onnx.save(network(), tmp_path / "m.onnx")
    np.save(tmp_path / "x.npy", inputs(5, 512))
    done = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "out", Contract(error=0.06), tmp_path / "x.npy",
                            goal="speed", clock=Products(0.5), tune="2epochs")  # fmt: skip
    assert {value for value, step in done.plan.steps.items() if str(step) == "dynamic"} == {"x@smoothed", "h"}
    assert seen[0][0] == pytest.approx(seen[0][1], rel=0.08)  # without it, 13 % less


def test_integers_stay_in_their_range() -> None:
    grid = Affine(np.array([[120, -127]], np.int32), np.array([-8], np.int16), 0, np.dtype(np.float32))
    found = Weights([Weight.of("w", grid, most=127)], {"w": grid.values()}, near=True)
    found.rounded += np.array([20, -20], np.float32)
    found.settle()
    np.testing.assert_array_equal(found.stored()["w"].symbols().values, [[127, -127]])


def test_inputs_are_rounded_for_all_readers() -> None:
    model = residual()
    params = QuantParams.over(-1, 1, "int8")
    round_outputs.insert(model, {"x": params})
    onnx.checker.check_model(model, full_check=True)
    x = np.random.default_rng(3).standard_normal((2, *X.shape[1:]), np.float32)
    plain, other = (onnxruntime.InferenceSession(one.SerializeToString()) for one in (residual(), model))
    np.testing.assert_allclose(
        other.run(None, {"x": x})[0], plain.run(None, {"x": x + params.error(x)})[0], rtol=1e-3, atol=1e-4
    )
