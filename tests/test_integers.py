"""Layers in integers where that saves time on a made-up clock, or everywhere; and the model as it was where not."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import branches, cnn, model, weights
from onnx import helper
from test_pairs import X, kernels, residual

import onnxopt
from onnxopt import Contract, Missed, OnnxoptError, Result, cli
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.spec.target import TARGETS, Target
from onnxopt.strategies import int8 as integers
from onnxopt.strategies import low_rank as factoring
from onnxopt.strategies import weight_only as blocks

Array = np.ndarray[Any, Any]


class Machine:
    """One where every node takes a millisecond, as integers so much of it."""

    def __init__(self, share: float = 0.4, slow: Sequence[str] = ()) -> None:
        self.share, self.slow, self.ratio = share, slow, 0.5

    def by_node(self, content: bytes, feeds: object) -> dict[str, float]:
        graph = onnx.ModelProto.FromString(content).graph
        rounded = any(node.op_type == "QuantizeLinear" for node in graph.node)
        return {node.name: (3.0 if node.name in self.slow else self.share) if rounded else 1.0 for node in graph.node}

    def milliseconds(self, models: Sequence[bytes], feeds: object) -> list[float]:
        """Of conversions next to nothing; of whole models those of its nodes."""
        graphs = [onnx.ModelProto.FromString(content).graph for content in models]
        if len(graphs[0].node) == 1:
            return [1e-6] * len(graphs)
        return [sum(self.by_node(content, feeds).values()) for content in models]

    def time_ratios(
        self, paths: Sequence[Path], against: Path, feeds: object, seconds: float, advance: object
    ) -> list[SpeedRatio]:
        ratio = self.ratio
        bounds = ratio - 0.01, ratio + 0.01, abs(ratio - 1) > 0.01, True
        return [SpeedRatio(str(path), str(against), ratio, *bounds) for path in paths]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    one = Machine()
    monkeypatch.setattr(integers, "time_by_node", one.by_node)
    monkeypatch.setattr(integers, "milliseconds", one.milliseconds)
    monkeypatch.setattr(integers, "time_ratios", one.time_ratios)
    monkeypatch.setattr(factoring, "milliseconds", lambda models, feeds: [1.0] * len(models))
    monkeypatch.setattr(blocks, "milliseconds", lambda models, feeds: [1.0] * len(models))
    return one


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(residual(), tmp_path / "residual.onnx")
    return tmp_path / "residual.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((400, *X.shape[1:]), np.float32))
    return tmp_path / "data.npz"


def optimized(source: Path, data: Path | None, error: float = 0.1, **more: Any) -> Result:
    return onnxopt.optimize(source, source.with_name("small.onnx"), Contract(error=error), data=data, **more)


def to_plain_model(result: Result) -> onnx.ModelProto:
    return onnxopt.decompress(result.output)


def types(result: Result) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in to_plain_model(result).graph.initializer}


def running(result: Result) -> set[str]:
    assert result.integers is not None
    return {one.path for one in result.integers.layers if one.integers}


@pytest.mark.usefixtures("machine")
def test_layers_run_in_integers_where_that_is_faster(source: Path, data: Path, tmp_path: Path) -> None:
    result = optimized(source, data, goal="speed", target="cpu-vnni")
    found = result.integers
    assert found is not None
    assert (found.goal, found.target, found.type, found.kept, found.reason) == ("speed", "cpu-vnni", "uint8", True, "")
    assert {"conv1", "conv2", "add", "depthwise", "gemm"} <= running(result)
    assert found.time is not None and found.time.ratio == 0.5
    assert result.check is not None and result.check.found.error <= 0.1
    counted = kernels(to_plain_model(result), tmp_path)
    assert counted["QLinearConv"] == 3 and counted["QGemm"] == 1 and not counted["Conv"]
    assert {types(result)[name] for name in ("w1", "w2", "w3", "w4")} == {onnx.TensorProto.INT8}
    assert result.factoring is None  # no few layers take all the time


def test_a_node_that_is_slower_in_integers_stays_float(source: Path, data: Path, machine: Machine) -> None:
    machine.slow = ("depthwise",)
    result = optimized(source, data, goal="speed")
    assert "depthwise" not in running(result)
    assert {"conv1", "conv2"} <= running(result)
    (layer,) = [one for one in result.integers.layers if one.path == "depthwise"]  # type: ignore[union-attr]
    assert (layer.ms_floats, layer.ms_integers) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("share", "ratio", "reason"),
    [
        (2.0, 0.5, "no node runs faster in integers"),
        (0.4, 1.1, "the model takes 1.100x the time in integers"),
        (0.4, 0.97, "the model takes 0.970x the time in integers"),
    ],
)
def test_what_is_slower_as_a_whole_is_refused(
    source: Path, data: Path, machine: Machine, share: float, ratio: float, reason: str
) -> None:
    machine.share, machine.ratio = share, ratio
    before = optimized(source, data)
    content = before.output.read_bytes()
    result = optimized(source, data, goal="speed")
    assert result.integers is not None
    assert not result.integers.kept
    assert result.integers.reason.startswith(reason)
    assert result.output.read_bytes() == content


@pytest.mark.usefixtures("machine")
def test_a_size_is_met_in_integers(source: Path, data: Path) -> None:
    size = source.stat().st_size // 4
    output = source.with_name("small.onnx")
    result = onnxopt.optimize(source, output, Contract(target_size=size), data=data, goal="speed")
    assert result.integers is not None
    assert result.integers.kept
    assert output.stat().st_size <= size


@pytest.mark.usefixtures("machine")
def test_a_tight_contract_keeps_loud_values_floats(source: Path, data: Path) -> None:
    loose, tight = running(optimized(source, data, 0.2, goal="speed")), optimized(source, data, 0.004, goal="speed")
    assert running(tight) < loose
    assert tight.check is not None and tight.check.found.error <= 0.004


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("target", list(TARGETS))
def test_activations_round_every_layer(source: Path, data: Path, target: str, bits: int) -> None:
    result = optimized(source, data, activations=bits, target=target)
    found = result.integers
    assert found is not None and found.kept and not found.goal and found.time is None
    assert found.type == TARGETS[target].activations.replace("8", str(bits))
    assert running(result) == {one.path for one in found.layers}
    weight = max(float(np.abs(onnx.numpy_helper.to_array(t)).max()) for t in to_plain_model(result).graph.initializer
                 if t.name in ("w1", "w2", "w3", "w4"))  # fmt: skip
    assert weight < 2 ** (TARGETS[target].bits - 1)
    onnx.checker.check_model(to_plain_model(result))


@pytest.mark.slow
def test_two_runs_and_the_plan_give_the_same_file(source: Path, data: Path) -> None:
    first = optimized(source, data, activations=8)
    content = first.output.read_bytes()
    assert optimized(source, data, activations=8).output.read_bytes() == content
    planned = onnxopt.plan(source, Contract(error=0.1), data=data, activations=8)
    assert planned == first.plan
    assert str(planned.steps["w1"]).endswith("> integers")
    assert planned.steps["x"].name == "qdq"
    applied = onnxopt.apply(source, planned, source.with_name("applied.onnx"), data=data)
    assert applied.output.read_bytes() == content


def test_without_data_inputs_are_made_up(source: Path) -> None:
    assert optimized(source, None, activations=8).met


def test_a_contract_that_cannot_be_met_writes_nothing(source: Path, data: Path) -> None:
    with pytest.raises(Missed, match="cannot be met with --activations"):
        optimized(source, data, 1e-4, activations=8)
    assert not source.with_name("small.onnx").exists()


def test_what_the_user_decided_stays_float(source: Path, data: Path) -> None:
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "w2"\nskip = true')
    result = optimized(source, data, activations=8, overrides=rules)
    assert "conv2" not in running(result)
    assert types(result)["w2"] == onnx.TensorProto.FLOAT


def test_old_operators_are_brought_up_to_date(tmp_path: Path) -> None:
    made = residual()
    nodes = [node for node in made.graph.node if node.op_type not in ("Pad", "Clip")]
    for node in nodes:
        if node.name == "depthwise":
            node.input[0] = "p"
        if node.name == "mean":
            node.input[0] = "c3"
    tensors = {t.name: onnx.numpy_helper.to_array(t) for t in made.graph.initializer if t.name[0] in "wb"}
    old = model(nodes, tensors, {"x": ["n", 8, 12, 12]}, {"y": ["n", 10]}, opset=9, ir_version=4)
    onnx.save(old, tmp_path / "old.onnx")
    result = optimized(tmp_path / "old.onnx", None, activations=8)
    assert {"conv1", "conv2", "gemm"} <= running(result)
    assert max(one.version for one in to_plain_model(result).opset_import) >= 13


@pytest.mark.parametrize("make", [branches, cnn])
def test_what_cannot_run_in_integers_is_left(make: Any, tmp_path: Path) -> None:
    onnx.save(make(), tmp_path / "model.onnx")
    if make is branches:
        with pytest.raises(Missed, match="no node can run in integers"):
            optimized(tmp_path / "model.onnx", None, activations=8)
        return
    result = optimized(tmp_path / "model.onnx", None, activations=8)
    assert {"conv1", "depthwise"} <= running(result)  # and the transposed convolution stays float


def test_transformer_like_products_take_integers(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Add", ["h", "b"], ["s"], "bias"),
        helper.make_node("Relu", ["s"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    tensors = {"w": weights(32, 64, scale=0.1), "b": weights(64, seed=1), "v": weights(64, 16, seed=2)}
    onnx.save(model(nodes, tensors, {"x": ["n", 5, 32]}, {"y": ["n", 5, 16]}), tmp_path / "product.onnx")
    result = optimized(tmp_path / "product.onnx", None, activations=8)
    assert running(result) == {"first", "second"}
    counted = kernels(to_plain_model(result), tmp_path)
    assert counted["MatMul"] == 0


def test_a_model_in_integers_is_never_rounded_again(source: Path, data: Path, tmp_path: Path) -> None:
    onnx.save(to_plain_model(optimized(source, data, activations=8)), tmp_path / "pairs.onnx")
    result = optimized(tmp_path / "pairs.onnx", data, goal="speed")
    assert result.integers is not None
    assert result.integers.reason == "it has integers already, which are kept as they are"
    assert result.check is not None and result.check.found.error <= 0.1


def test_contradictions(source: Path) -> None:
    for more, message in (
        ({"activations": 8, "goal": "speed"}, "--activations and --for contradict"),
        ({"activations": 8, "lossless": True}, "--lossless and --activations contradict"),
        ({"activations": 7}, "--activations is 7, expected 8 or 16"),
        ({"target": "generic"}, "--target says which integers"),
        ({"target": "gpu", "activations": 8}, "--target is 'gpu', expected cpu-vnni, cpu-arm, generic"),
    ):
        with pytest.raises(OnnxoptError, match=message):
            optimized(source, None, **more)  # type: ignore[arg-type]


def test_this_machine_is_a_target() -> None:
    assert Target.of(None).name in TARGETS


@pytest.mark.usefixtures("machine")
def test_the_command_and_the_page(
    source: Path, data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: object) -> str:
        monkeypatch.setattr(sys, "argv", ["onnxopt", "optimize", str(source), *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code in (0, None)
        return capsys.readouterr().out

    options = ("-o", source.with_name("small.onnx"), "--data", data, "--error", 0.1, "--for", "speed")
    shown = command(*options)
    for word in ("3 Conv", "1 Gemm", "uint8", "0.500x the time"):
        assert word in shown, word
    assert max(map(len, shown.splitlines())) <= 80
    result = json.loads(command(*options, "--json"))
    found = result["integers"]
    text = (Path(__file__).resolve().parents[1] / "docs" / "result.md").read_text(encoding="utf-8")
    for name in (*found, *found["time"], *found["layers"][0]):
        assert f"`{name}`" in text, name
    page = html.render(result)
    table = page.partition('<section id="int8"')[2].partition("</section>")[0]
    assert table.count("<tbody>") == len(found["layers"])
    assert "depthwise" in table and "0.500" in table and 'href="#strategies"' in page
    assert html.render(json.loads(to_json(optimized(source, data))))  # and without


def test_parts_of_chains_run_in_integers(source: Path, data: Path) -> None:
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "w1"\nstep = "svd{rank=6}"')
    result = optimized(source, data, 0.3, activations=8, overrides=rules)
    assert {"conv2", "depthwise", "gemm"} <= running(result)
    assert {"w1@u", "w1@v"} <= {event.path for event in result.events}
    applied = onnxopt.apply(source, result.plan, source.with_name("applied.onnx"), data=data)
    assert applied.output.read_bytes() == result.output.read_bytes()
