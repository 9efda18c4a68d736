"""PRelu as depthwise convolutions: the same outputs, in the file where time is saved; the clock is made up."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import prelu

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.build.workspace import Workspace
from onnxopt.graph import Graph, QuantParams, embed, normalise, read
from onnxopt.graph.cleanup import clean
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.overrides import Overrides
from onnxopt.spec.plan import Plan, Step
from onnxopt.strategies import int8 as integers
from onnxopt.strategies import low_rank as factoring
from onnxopt.strategies import prelu as rectifiers
from onnxopt.strategies import weight_only as blocks

X = np.random.default_rng(1).standard_normal((2, 3, 8, 8)).astype(np.float32)


def data() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(2)
    yield from (rng.standard_normal((8, 3, 8, 8)).astype(np.float32) for _ in range(8))


def run(one: onnx.ModelProto, x: np.ndarray = X) -> np.ndarray:
    session = onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def convolved(one: onnx.ModelProto, value: str = "bent") -> onnx.ModelProto:
    copy = onnx.ModelProto.FromString(one.SerializeToString())
    normalise(copy)
    graph = Graph(copy)
    graph.prelu_as_convs(value)
    made, encodings = graph.export()
    embed(made, {name: weight.run_time_tensor() for name, weight in encodings.items()})
    return made


@pytest.mark.parametrize("opset", [9, 13, 21])
@pytest.mark.parametrize("slopes", [(8, 1, 1), (1, 8, 1, 1)])
def test_convolutions_compute_the_same(slopes: tuple[int, ...], opset: int) -> None:
    one = prelu(slopes, opset)
    made = convolved(one)
    assert [node.op_type for node in made.graph.node].count("PRelu") == 0
    np.testing.assert_allclose(run(made), run(one), rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(made)


@pytest.mark.parametrize("slopes", [(8, 1, 6), (1, 1, 1), (1, 1, 6)])
def test_other_slopes_stay(slopes: tuple[int, ...]) -> None:
    """Of pixels, or one for all."""
    with pytest.raises(OnnxoptError, match="'bent': no PRelu with slopes by channel"):
        convolved(prelu(slopes, outputs=8))


def test_one_slope_is_a_leaky_relu() -> None:
    one = prelu((1, 1, 1))
    normalise(one)
    made, changed = clean(one)
    assert changed["prelu_scalar"] == 1
    assert [node.op_type for node in made.graph.node] == ["Conv", "LeakyRelu", "Conv"]
    np.testing.assert_array_equal(run(made), run(one))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What convolutions take of the time without."""
    says = {"ratio": 0.5}

    def time_ratio(path: Path, against: Path, *_: object) -> SpeedRatio:
        ops = [{node.op_type for node in onnx.load(one).graph.node} for one in (path, against)]
        assert ["PRelu" in one for one in ops] == [False, True]
        return SpeedRatio("a", "b", says["ratio"], says["ratio"], says["ratio"], True, True)

    def time_ratios(paths: list[Path], *_: object) -> list[SpeedRatio]:
        return [SpeedRatio("a", "b", 1.0, 0.9, 1.1, False, True) for _ in paths]

    monkeypatch.setattr(rectifiers, "time_ratio", time_ratio)
    monkeypatch.setattr(integers, "time_ratios", time_ratios)  # and nothing else saves any
    for module in (integers, factoring, blocks):
        monkeypatch.setattr(module, "milliseconds", lambda models, feeds: [1.0] * len(models))
    return says


@pytest.mark.parametrize("ratio", [0.5, 1.5])
def test_convolutions_where_they_save_time(tmp_path: Path, clock: dict[str, float], ratio: float) -> None:
    clock["ratio"] = ratio
    path, output = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(prelu(), path)
    done = onnxopt.optimize(path, output, Contract(error=0.05), data, goal="speed")
    assert done.rectifiers is not None
    assert (done.rectifiers.kept, done.rectifiers.nodes) == (ratio < 1, 1)
    plain = onnxopt.decompress(output)
    assert any(node.op_type == "PRelu" for node in plain.graph.node) == (ratio > 1)
    assert ("bent" in done.plan.steps) == (ratio < 1)
    assert bool(done.rectifiers.reason) == (ratio > 1)
    assert ("1 PRelu run as" in html.render(json.loads(to_json(done)))) == (ratio < 1)
    error = np.linalg.norm(run(plain) - run(prelu())) / np.linalg.norm(run(prelu()))
    assert error < 0.1


def test_what_does_not_run_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def time_ratio(path: Path, *_: object) -> SpeedRatio:
        raise OnnxoptError(f"{path}: does not load")

    monkeypatch.setattr(rectifiers, "time_ratio", time_ratio)
    path = tmp_path / "model.onnx"
    onnx.save(prelu(), path)
    engine = Workspace(read(path), False, "balanced", 2**30, lambda what, share: None)
    tuner = ContractSearch(engine, Contract(error=0.05), Overrides())
    tuner.calibrate(data, None)
    found = rectifiers.hasten(tuner, lambda what, share: None)
    assert found is not None
    assert not found.kept
    assert "does not load" in found.reason
    assert "bent" not in engine.plan(1.0, Overrides()).steps
    engine.close(keep=False)


def test_integers_read_what_convolutions_make(tmp_path: Path) -> None:
    """A layer in integers behind them gets the same numbers."""
    path = tmp_path / "model.onnx"
    onnx.save(prelu(), path)
    engine = Workspace(read(path), False, "balanced", 2**30, lambda what, share: None)
    engine.modernise()
    steps = {
        "w2": Step.parse("fixedpoint{bits=7} > integers"),
        "bent": QuantParams.over(-20, 40, "uint8").step(),
        "y": QuantParams.over(-150, 150, "uint8").step(),
    }
    made = []
    for values in ([], ["bent"]):
        engine.prelu_as_convs(values)
        made.append(onnx.load_model_from_string(engine.to_plain_model(Plan(engine.source.sha256, steps))))
    engine.close(keep=False)
    for one, prelu in zip(made, (True, False), strict=True):
        ops = [node.op_type for node in one.graph.node]
        assert ops.count("DequantizeLinear") >= 3
        assert ("PRelu" in ops) == prelu
    without, convolutions = (run(one) for one in made)
    assert np.mean(without != convolutions) < 0.02  # sums that two kernels round to either side of a half
    assert np.abs(without - convolutions).max() < 2
    assert np.linalg.norm(convolutions - run(prelu())) < 0.1 * np.linalg.norm(convolutions)


def test_a_plan_repeats_it(tmp_path: Path, clock: dict[str, float]) -> None:
    """In the same bytes."""
    path, output, again = tmp_path / "model.onnx", tmp_path / "small.onnx", tmp_path / "again.onnx"
    onnx.save(prelu(), path)
    done = onnxopt.optimize(path, output, Contract(error=0.05), data, goal="speed")
    onnxopt.apply(path, done.plan, again, data)
    assert again.read_bytes() == output.read_bytes()
