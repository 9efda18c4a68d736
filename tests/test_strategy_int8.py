"""INT8 execution: layers run in INT8 where a fake clock says that saves time, or everywhere; else nothing changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import branches, cnn, model, residual, weights
from onnx import helper
from rich.console import Console
from test_pairs import X, kernels

import onnxopt
from onnxopt import Contract, Missed, OnnxoptError, Result
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.report import html
from onnxopt.report.json import to_json
from onnxopt.report.table import print_result
from onnxopt.results.strategy import StrategyReport
from onnxopt.spec.target import TARGETS, Target

Array = np.ndarray[Any, Any]


class Machine:
    """One where every node takes a millisecond, as integers so much of it."""

    def __init__(self, share: float = 0.4, slow: Sequence[str] = ()) -> None:
        self.share, self.slow, self.ratio = share, slow, 0.5

    def profile(self, model: bytes, feeds: object) -> dict[str, float]:
        graph = onnx.ModelProto.FromString(model).graph
        rounded = any(node.op_type == "QuantizeLinear" for node in graph.node)
        return {node.name: (3.0 if node.name in self.slow else self.share) if rounded else 1.0 for node in graph.node}

    def time_many(self, models: Sequence[bytes], feeds: object) -> list[float]:
        """Of conversions next to nothing; of whole models those of its nodes."""
        graphs = [onnx.ModelProto.FromString(content).graph for content in models]
        if len(graphs[0].node) == 1:
            return [1e-6] * len(graphs)
        return [sum(self.profile(content, feeds).values()) for content in models]

    def race(self, models: Sequence[Path], against: Path, feeds: object, advance: object) -> list[SpeedRatio]:
        ratio = self.ratio
        bounds = ratio - 0.01, ratio + 0.01, abs(ratio - 1) > 0.01, True
        return [SpeedRatio(str(path), str(against), ratio, *bounds) for path in models]

    def optimized(self, source: Path, data: Path | None, error: float = 0.1, **more: Any) -> Result:
        output = source.with_name("small.onnx")
        return onnxopt.optimize(source, output, Contract(error=error), data=data, clock=self, **more)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    onnx.save(residual(), tmp_path / "residual.onnx")
    return tmp_path / "residual.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(1).standard_normal((400, *X.shape[1:]), np.float32))
    return tmp_path / "data.npz"


def found(result: Result) -> StrategyReport:
    one = result.strategy("int8")
    assert one is not None
    return one


def plain(result: Result) -> onnx.ModelProto:
    return onnxopt.decompress(result.output)


def types(result: Result) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in plain(result).graph.initializer}


def running(result: Result) -> set[str]:
    return {row["path"] for row in found(result).layers if row["accepted"]}


def test_layers_run_in_int8_where_that_is_faster(machine: Machine, source: Path, data: Path, tmp_path: Path) -> None:
    result = machine.optimized(source, data, goal="speed", device="cpu-vnni")
    one = found(result)
    assert (one.goal, one.kept, one.reason) == ("speed", True, "")
    assert "uint8 activations, for cpu-vnni kernels" in one.about
    assert {"conv1", "conv2", "add", "depthwise", "gemm"} <= running(result)
    assert one.time is not None and one.time.ratio == 0.5
    assert result.check is not None and result.check.found.error <= 0.1
    counted = kernels(plain(result), tmp_path)
    assert counted["QLinearConv"] == 3 and counted["QGemm"] == 1 and not counted["Conv"]
    assert {types(result)[name] for name in ("w1", "w2", "w3", "w4")} == {onnx.TensorProto.INT8}
    assert result.strategy("low_rank") is None  # no few layers take all the time


def test_a_form_that_the_runtime_rejects_while_it_is_timed_is_dropped(source: Path, data: Path) -> None:
    class Rejecting(Machine):
        def profile(self, model: bytes, feeds: object) -> dict[str, float]:
            raise RuntimeError("no kernel for this")

    one = found(Rejecting().optimized(source, data, goal="speed"))
    assert not one.kept
    assert "the runtime rejects the model in INT8: no kernel for this" in one.reason


@pytest.mark.slow
def test_a_node_that_is_slower_in_integers_stays_float(source: Path, data: Path, machine: Machine) -> None:
    machine.slow = ("depthwise",)
    result = machine.optimized(source, data, goal="speed")
    assert "depthwise" not in running(result)
    assert {"conv1", "conv2"} <= running(result)
    (layer,) = [row for row in found(result).layers if row["path"] == "depthwise"]
    assert (layer["ms_before"], layer["ms_after"]) == (1.0, 3.0)


@pytest.mark.parametrize(
    ("share", "ratio", "reason"),
    [
        (2.0, 0.5, "no node runs faster in INT8"),
        (0.4, 1.1, "the model takes 1.100x the time in INT8"),
        (0.4, 0.97, "the model takes 0.970x the time in INT8"),
    ],
)
@pytest.mark.slow
def test_what_is_slower_as_a_whole_is_refused(
    source: Path, data: Path, machine: Machine, share: float, ratio: float, reason: str
) -> None:
    machine.share, machine.ratio = share, ratio
    before = machine.optimized(source, data)
    content = before.output.read_bytes()
    result = machine.optimized(source, data, goal="speed")
    assert not found(result).kept
    assert found(result).reason.startswith(reason)
    assert result.output.read_bytes() == content


@pytest.mark.slow
def test_a_size_is_met_in_integers(machine: Machine, source: Path, data: Path) -> None:
    size = source.stat().st_size // 4
    output = source.with_name("small.onnx")
    result = onnxopt.optimize(source, output, Contract(target_size=size), data=data, goal="speed", clock=machine)
    assert found(result).kept
    assert output.stat().st_size <= size


@pytest.mark.slow
def test_a_tight_contract_keeps_loud_values_floats(machine: Machine, source: Path, data: Path) -> None:
    loose, tight = (machine.optimized(source, data, error, goal="speed") for error in (0.2, 0.004))
    assert running(tight) < running(loose)
    assert tight.check is not None and tight.check.found.error <= 0.004


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("target", list(TARGETS))
def test_activations_round_every_layer(machine: Machine, source: Path, data: Path, target: str, bits: int) -> None:
    result = machine.optimized(source, data, activations=bits, device=target)
    one = found(result)
    assert one.kept and not one.goal and one.time is None
    assert f"with {TARGETS[target].activations.replace('8', str(bits))} activations" in one.about
    assert running(result) == {row["path"] for row in one.layers}
    weight = max(float(np.abs(onnx.numpy_helper.to_array(t)).max()) for t in plain(result).graph.initializer
                 if t.name in ("w1", "w2", "w3", "w4"))  # fmt: skip
    assert weight < 2 ** (TARGETS[target].bits - 1)
    onnx.checker.check_model(plain(result))


@pytest.mark.slow
def test_two_runs_and_the_plan_give_the_same_file(machine: Machine, source: Path, data: Path) -> None:
    first = machine.optimized(source, data, activations=8)
    content = first.output.read_bytes()
    assert machine.optimized(source, data, activations=8).output.read_bytes() == content
    planned = onnxopt.plan(source, Contract(error=0.1), data=data, activations=8, clock=machine)
    assert planned == first.plan
    assert str(planned.steps["w1"]).endswith("> integers")
    assert planned.steps["x"].name == "qdq"
    applied = onnxopt.apply(source, planned, source.with_name("applied.onnx"), data=data)
    assert applied.output.read_bytes() == content


def test_without_data_inputs_are_made_up(machine: Machine, source: Path) -> None:
    assert machine.optimized(source, None, activations=8).met


def test_a_contract_that_cannot_be_met_writes_nothing(machine: Machine, source: Path, data: Path) -> None:
    with pytest.raises(Missed, match="cannot be met with --activations"):
        machine.optimized(source, data, 1e-4, activations=8)
    assert not source.with_name("small.onnx").exists()


def test_what_the_user_decided_stays_float(machine: Machine, source: Path, data: Path) -> None:
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "w2"\nskip = true')
    result = machine.optimized(source, data, activations=8, overrides=rules)
    assert "conv2" not in running(result)
    assert types(result)["w2"] == onnx.TensorProto.FLOAT


def test_old_operators_are_brought_up_to_date(machine: Machine, tmp_path: Path) -> None:
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
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).standard_normal((64, 8, 12, 12)).astype(np.float32))
    result = machine.optimized(tmp_path / "old.onnx", tmp_path / "x.npz", activations=8)
    assert {"conv1", "conv2", "gemm"} <= running(result)
    assert max(one.version for one in plain(result).opset_import) >= 13


@pytest.mark.parametrize("make", [branches, cnn])
def test_what_cannot_run_in_integers_is_left(machine: Machine, make: Any, tmp_path: Path) -> None:
    onnx.save(make(), tmp_path / "model.onnx")
    if make is branches:
        with pytest.raises(Missed, match="no node can run in INT8"):
            machine.optimized(tmp_path / "model.onnx", None, activations=8)
        return
    result = machine.optimized(tmp_path / "model.onnx", None, activations=8)
    assert {"conv1", "depthwise"} <= running(result)  # and the transposed convolution stays float


def test_transformer_like_products_take_integers(machine: Machine, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "first"),
        helper.make_node("Add", ["h", "b"], ["s"], "bias"),
        helper.make_node("Relu", ["s"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "v"], ["y"], "second"),
    ]
    tensors = {"w": weights(32, 64, scale=0.1), "b": weights(64, seed=1), "v": weights(64, 16, seed=2)}
    onnx.save(model(nodes, tensors, {"x": ["n", 5, 32]}, {"y": ["n", 5, 16]}), tmp_path / "product.onnx")
    result = machine.optimized(tmp_path / "product.onnx", None, activations=8)
    assert running(result) == {"first", "second"}
    counted = kernels(plain(result), tmp_path)
    assert counted["MatMul"] == 0


def test_a_model_in_integers_is_never_rounded_again(machine: Machine, source: Path, data: Path, tmp_path: Path) -> None:
    onnx.save(plain(machine.optimized(source, data, activations=8)), tmp_path / "pairs.onnx")
    result = machine.optimized(tmp_path / "pairs.onnx", data, goal="speed")
    assert found(result).reason == "it is quantized already, and stays as it is"
    assert result.check is not None and result.check.found.error <= 0.1


def test_contradictions(machine: Machine, source: Path) -> None:
    for more, message in (
        ({"activations": 8, "goal": "speed"}, "--activations and --for contradict"),
        ({"activations": 8, "lossless": True}, "--lossless and --activations contradict"),
        ({"activations": 7}, "--activations is 7, expected 8 or 16"),
        ({"device": "generic"}, "--device says which INT8 kernels"),
        ({"device": "gpu", "activations": 8}, "--device is 'gpu', expected cpu-vnni, cpu-arm, generic"),
    ):
        with pytest.raises(OnnxoptError, match=message):
            machine.optimized(source, None, **more)  # type: ignore[arg-type]


def test_this_machine_is_a_target() -> None:
    assert Target.of(None).name in TARGETS


@pytest.mark.slow
def test_terminal_json_and_page(machine: Machine, source: Path, data: Path) -> None:
    result, lines = machine.optimized(source, data, goal="speed"), StringIO()
    print_result(Console(file=lines, width=80), result)
    shown = lines.getvalue()
    for word in ("3 Conv", "1 Gemm", "uint8", "0.500x the time"):
        assert word in " ".join(shown.split()), word
    assert max(map(len, shown.splitlines())) <= 80
    document = json.loads(to_json(result))
    (one,) = [s for s in document["strategies"] if s["name"] == "int8"]
    text = (Path(__file__).resolve().parents[1] / "docs" / "result.md").read_text(encoding="utf-8")
    for name in (*one, *one["time"], *one["columns"][0]):
        assert f"`{name}`" in text, name
    page = html.render(document)
    table = page.partition('<section id="int8"')[2].partition("</section>")[0]
    assert table.count("<tbody>") == len(one["layers"])
    assert "depthwise" in table and "0.500" in table and 'href="#strategies"' in page
    assert html.render(json.loads(to_json(machine.optimized(source, data))))  # and without


@pytest.mark.slow
def test_parts_of_chains_run_in_integers(machine: Machine, source: Path, data: Path) -> None:
    rules = onnxopt.spec.overrides.Overrides.parse('[[rule]]\nmatch = "w1"\nstep = "svd{rank=6}"')
    result = machine.optimized(source, data, 0.3, activations=8, overrides=rules)
    assert {"conv2", "depthwise", "gemm"} <= running(result)
    assert {"w1@u", "w1@v"} <= {event.path for event in result.events}
    applied = onnxopt.apply(source, result.plan, source.with_name("applied.onnx"), data=data)
    assert applied.output.read_bytes() == result.output.read_bytes()
