"""PRelu as depthwise convolutions: equal outputs, and adopted if a fake clock says that it saves time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import prelu

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.build.preparation import prepare
from onnxopt.graph import Graph, QuantParams, embed, normalise, read, step_of_value
from onnxopt.graph.cleanup import clean
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.request import Request
from onnxopt.spec.plan import Step

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
    made, changed, _ = clean(one)
    assert changed["prelu_scalar"] == 1
    assert [node.op_type for node in made.graph.node] == ["Conv", "LeakyRelu", "Conv"]
    np.testing.assert_array_equal(run(made), run(one))


class Machine:
    """A clock that says what convolutions take of the time without; nothing else saves any."""

    def __init__(self, ratio: float = 0.5, refused: str = "") -> None:
        self.ratio, self.refused = ratio, refused

    def time_many(self, models: Sequence[bytes], feeds: object) -> list[float]:
        return [1.0] * len(models)

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        return {}

    def race(self, models: Sequence[Path], against: Path, *_: object) -> list[SpeedRatio]:
        has_prelu = ["PRelu" in {node.op_type for node in onnx.load(one).graph.node} for one in (*models, against)]
        if has_prelu != [False, True]:
            return [SpeedRatio("a", "b", 1.0, 0.9, 1.1, False, True) for _ in models]
        if self.refused:
            raise OnnxoptError(self.refused)
        return [SpeedRatio("a", "b", self.ratio, self.ratio, self.ratio, True, True)]


@pytest.mark.parametrize("ratio", [0.5, 1.5])
def test_convolutions_where_they_save_time(tmp_path: Path, ratio: float) -> None:
    path, output = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(prelu(), path)
    done = onnxopt.optimize(path, output, Contract(error=0.05), data, goal="speed", clock=Machine(ratio))
    found = done.strategy("prelu")
    assert found is not None
    assert (found.kept, len(found.layers)) == (ratio < 1, 1)
    plain = onnxopt.decompress(output)
    assert any(node.op_type == "PRelu" for node in plain.graph.node) == (ratio > 1)
    assert ("bent" in done.plan.steps) == (ratio < 1)
    assert bool(found.reason) == (ratio > 1)
    assert ("1 PRelu run as" in html.render(json.loads(to_json(done)))) == (ratio < 1)
    error = np.linalg.norm(run(plain) - run(prelu())) / np.linalg.norm(run(prelu()))
    assert error < 0.1


def test_what_does_not_run_stays(tmp_path: Path) -> None:
    path, clock = tmp_path / "model.onnx", Machine(refused="convolutions.onnx: does not load")
    onnx.save(prelu(), path)
    done = onnxopt.optimize(path, tmp_path / "small.onnx", Contract(error=0.05), data, goal="speed", clock=clock)
    found = done.strategy("prelu")
    assert found is not None
    assert not found.kept
    assert "does not load" in found.reason
    assert "bent" not in done.plan.steps


def test_int8_layers_read_what_convolutions_make(tmp_path: Path) -> None:
    """An INT8 layer behind them gets the same numbers."""
    path = tmp_path / "model.onnx"
    onnx.save(prelu(), path)
    steps = {
        "w2": Step.parse("integers{bits=8}"),
        "bent": QuantParams.over(-20, 40, "uint8").step(),
        "y": QuantParams.over(-150, 150, "uint8").step(),
    }
    with prepare(read(path), Request()) as work:
        form = work.with_steps(steps)
        convolutions_too = form.with_steps({"bent": step_of_value(depthwise=True)})
        made = [onnx.load_model_from_string(one.to_plain_model()) for one in (form, convolutions_too)]
    for one, has_prelu in zip(made, (True, False), strict=True):
        ops = [node.op_type for node in one.graph.node]
        assert ops.count("DequantizeLinear") >= 3
        assert ("PRelu" in ops) == has_prelu
    without, convolutions = (run(one) for one in made)
    assert np.mean(without != convolutions) < 0.02  # sums that two kernels round to either side of a half
    assert np.abs(without - convolutions).max() < 2
    assert np.linalg.norm(convolutions - run(prelu())) < 0.1 * np.linalg.norm(run(prelu()))


def test_a_plan_repeats_it(tmp_path: Path) -> None:
    """`plan` and `apply` write the bytes that `optimize` writes."""
    path, output, again = tmp_path / "model.onnx", tmp_path / "small.onnx", tmp_path / "again.onnx"
    onnx.save(prelu(), path)
    done = onnxopt.optimize(path, output, Contract(error=0.05), data, goal="speed", clock=Machine())
    planned = onnxopt.plan(path, Contract(error=0.05), data, goal="speed", clock=Machine())
    assert planned == done.plan
    onnxopt.apply(path, planned, again, data)
    assert again.read_bytes() == output.read_bytes()
