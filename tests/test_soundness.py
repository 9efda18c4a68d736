"""What is written computes what the source computes, or says why it does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import all_ways
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from builders import mlp, model, weights
from onnx import helper, numpy_helper

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.build import preparation, workspace
from onnxopt.calibration import collect, gains
from onnxopt.data import quiet_session, runnable_feeds
from onnxopt.errors import Unsound
from onnxopt.graph import cleanup
from onnxopt.search.identity import same


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A product and a batch normalization, which a clean-up folds."""
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["h"]),
        helper.make_node("BatchNormalization", ["h", "g", "b", "m", "v"], ["y"]),
    ]
    tensors = {name: np.abs(weights(32, seed=i)) + np.float32(0.1) for i, name in enumerate("gbmv")}
    made = model(nodes, {"w": weights(32, 32), **tensors}, {"x": ["n", 32]}, {"y": ["n", 32]})
    onnx.save(made, tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


def is_copy(result: onnxopt.Result) -> bool:
    """Whether the file is a copy that was compared with the source."""
    assert result.check
    return result.unchanged and result.output.read_bytes() == result.source.read_bytes()


def doubles(graph: gs.Graph) -> int:
    """A clean-up that is wrong."""
    weight = graph.nodes[0].inputs[1]
    weight.values = 2 * weight.values
    return 1


def disconnects(graph: gs.Graph) -> int:
    """A clean-up after which the model does not load."""
    graph.nodes[0].inputs = []
    return 1


def raises(graph: gs.Graph) -> int:
    """A clean-up that gives up in the middle of its work."""
    graph.nodes[0].inputs.clear()
    raise KeyError("perm")


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (doubles, "more than rounding explains"),
        (disconnects, "does not load"),
        (raises, "it failed: KeyError: 'perm'"),
    ],
)
def test_a_wrong_clean_up_is_left_out_alone(
    source: Path, wrong: Callable[[gs.Graph], int], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cleanup._CLEANUPS, "wrong", wrong)
    result = onnxopt.optimize(source, source.with_name("small.onnx"))
    assert list(result.left_out) == ["wrong"]
    assert reason in result.left_out["wrong"]
    assert result.cleaned["fold_batchnorm"] == 1
    assert result.check
    assert 0 < result.check.found.error <= 0.02


def test_a_plan_leaves_out_the_same_clean_up(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cleanup._CLEANUPS, "wrong", doubles)
    result = onnxopt.optimize(source, source.with_name("small.onnx"), Contract(target_ratio=2))
    again = onnxopt.apply(source, result.plan, source.with_name("again.onnx"))
    assert again.output.read_bytes() == result.output.read_bytes()
    assert again.left_out == result.left_out


def test_a_model_that_cannot_be_rewritten_is_copied(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(model: onnx.ModelProto) -> None:
        raise KeyError("name")

    monkeypatch.setattr(preparation, "normalise", fails)
    output = source.with_name("small.onnx")
    for options in ({}, {"lossless": True}):
        result = onnxopt.optimize(source, output, **options)  # type: ignore[arg-type]
        assert is_copy(result)
        assert result.left_out == {"compression": "it cannot be rewritten: KeyError: 'name'"}
        output.unlink()
    with pytest.raises(Unsound, match="KeyError"):
        onnxopt.optimize(source, output, Contract(target_ratio=4))
    assert not output.exists()


def test_a_lossless_file_with_another_bit_is_refused(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strip = workspace.strip

    def changes(inner: onnx.ModelProto, original: onnx.ModelProto) -> onnx.ModelProto:
        small = strip(inner, original)
        for tensor in small.graph.initializer:
            if tensor.data_location != onnx.TensorProto.EXTERNAL:
                tensor.CopyFrom(numpy_helper.from_array(np.nextafter(numpy_helper.to_array(tensor), 9), tensor.name))
        return small

    monkeypatch.setattr(workspace, "strip", changes)
    result = onnxopt.optimize(source, source.with_name("small.onnx"), lossless=True)
    assert is_copy(result)
    assert "not equal bit for bit" in result.left_out["compression"]


def test_a_plan_without_steps_keeps_every_bit(tmp_path: Path) -> None:
    """A clean-up would round: the batch normalization's vectors are too short to be quantized."""
    norm = helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"])
    tensors = {name: np.abs(weights(8, seed=i)) + np.float32(0.1) for i, name in enumerate("gbmv")}
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(model([norm], {**tensors, "unused": weights(50, 50)}, {"x": ["n", 8, 4]}, {"y": ["n", 8, 4]}), source)
    result = onnxopt.optimize(source, small)
    assert not result.unchanged
    assert not result.plan.steps
    reference, session = quiet_session(str(source)), onnxopt.load(small)
    for feeds in runnable_feeds(reference, 2):
        assert same(reference.run(None, feeds), session.run(None, feeds))


def test_statistics_that_fail_do_not_keep_the_file_from_being_compared(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise IndexError("out of range")

    monkeypatch.setattr(workspace, "calibrate", fails)
    result = onnxopt.optimize(source, source.with_name("small.onnx"), goal="size")
    assert result.not_calibrated == "its statistics cannot be measured (IndexError: out of range)"
    assert not result.calibrated
    assert result.check
    assert 0 < result.check.found.error <= 0.02
    assert len(result.trials) > 1


@pytest.mark.parametrize("fails_in", ["moments", "gains"])
def test_a_weight_that_cannot_be_measured_stays_as_it_is(
    tmp_path: Path, fails_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments, gain = collect.measure_moments, gains._from_noise

    def fails(graph: Any, uses: Any, *arguments: Any) -> None:
        if "fc1" in uses:
            raise ValueError("singular")
        moments(graph, uses, *arguments)

    def fails_late(graph: Any, site: Any, *arguments: Any) -> float:
        if site.path == "fc1":
            raise ValueError("singular")
        return gain(graph, site, *arguments)

    if fails_in == "moments":
        monkeypatch.setattr(collect, "measure_moments", fails)
    else:
        monkeypatch.setattr(gains, "_from_gradients", lambda *arguments: None)
        monkeypatch.setattr(gains, "_from_noise", fails_late)
    onnx.save(mlp(), tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx")
    events = {event.path: event for event in result.events}
    assert events["fc1"].step == "lossless"
    assert events["fc1"].reason == "its statistics cannot be measured (ValueError: singular)"
    assert events["fc2"].step.startswith("feedback")
    assert not result.not_calibrated


def test_a_source_that_does_not_load_is_refused(tmp_path: Path) -> None:
    foreign = helper.make_node("Foreign", ["x"], ["y"], domain="elsewhere")
    made = model([foreign], {}, {"x": [4]}, {"y": [4]})
    made.opset_import.add(domain="elsewhere", version=1)
    onnx.save(made, tmp_path / "m.onnx")
    for options in ({}, {"lossless": True}):
        with pytest.raises(OnnxoptError, match=r"the original does not load in ONNX Runtime either.*Foreign"):
            onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx", **options)  # type: ignore[arg-type]
    assert not (tmp_path / "small.onnx").exists()


def test_random_outputs_are_not_taken_for_noise_of_quantization(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("RandomNormalLike", ["h"], ["r"]),
        helper.make_node("Add", ["h", "r"], ["y"]),
    ]
    onnx.save(model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]}), tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx")
    assert not result.unchanged
    assert "from one run to the next" in result.left_out["quantization"]


def picky() -> onnx.ModelProto:
    """Looks up a row by the largest element, and fails where that is beyond the table."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Cast", ["most"], ["row"], to=onnx.TensorProto.INT64),
        helper.make_node("Gather", ["table", "row"], ["found"]),
        helper.make_node("Add", ["h", "found"], ["y"]),
    ]
    tensors = {"w": weights(64, 64), "table": weights(4, 64)}
    return model(nodes, tensors, {"x": ["n", 64]}, {"y": ["n", 64]})


def test_inputs_on_which_the_source_does_not_run_are_left_out(tmp_path: Path) -> None:
    onnx.save(picky(), tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx")
    assert result.check
    assert 0 < result.check.found.error <= 0.02
    assert not result.not_calibrated


def test_data_on_which_the_source_does_not_run_is_named(tmp_path: Path) -> None:
    onnx.save(picky(), tmp_path / "m.onnx")
    x = np.random.default_rng(0).uniform(-1, 1, (200, 64)).astype(np.float32)
    good, bad = tmp_path / "good.npz", tmp_path / "bad.npz"
    np.savez(good, x=x)
    x[150] = 9
    np.savez(bad, x=x)
    for data, evaluation in ((bad, None), (good, bad)):
        with pytest.raises(OnnxoptError, match=r"m\.onnx: does not run.*out of data bounds"):
            onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx", data=data, evaluation=evaluation)
    assert not (tmp_path / "small.onnx").exists()


def test_a_file_that_keeps_every_bit_meets_the_contract_that_was_asked_for(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> None:
        raise Unsound(source, "it does not run")

    monkeypatch.setattr(workspace.Workspace, "try_plan", fails)
    contract = Contract(error=0.01)
    result = onnxopt.optimize(source, source.with_name("small.onnx"), contract)
    assert not result.unchanged
    assert result.left_out == {"quantization": "it does not run"}
    assert (result.contract, result.bounds, result.met) == (str(contract), contract, True)


def test_defaults_that_another_kernel_multiplies_once_they_are_constant_are_not_refused(tmp_path: Path) -> None:
    """ONNX Runtime rounds the inputs of a product by constant int8 weights to 8 bits, here a difference of 0.005."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("DequantizeLinear", ["q", "scale"], ["v"]),
        helper.make_node("MatMul", ["h", "v"], ["y"]),
    ]
    integers = np.random.default_rng(1).integers(-90, 90, (64, 64)).astype(np.int8)
    tensors = {"w": weights(64, 64), "q": integers, "scale": np.array(0.01, np.float32)}
    made = model(nodes, tensors, {"x": ["n", 64]}, {"y": ["n", 64]})
    made.graph.input.append(helper.make_tensor_value_info("q", onnx.TensorProto.INT8, [64, 64]))
    onnx.save(made, tmp_path / "m.onnx")
    result = onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx", Contract(error=0.05))
    assert result.check
    assert result.check.found.error
    assert result.plan.steps


MATMUL = helper.make_node("MatMul", ["x", "w"], ["h"])
SHAPED: dict[str, tuple[list[onnx.NodeProto], list[int], list[list[int]]]] = {
    "a shape": ([MATMUL, helper.make_node("Reshape", ["h", "k"], ["y"])], [4, 32], [[4, 32], [2, 64]]),
    "an end": (
        [MATMUL, helper.make_node("Slice", ["h", "zeros", "k"], ["y"])],
        [4, 32],
        [[4, 32], [3, 5]],
    ),
    "rows that were found": (
        [
            helper.make_node("NonZero", ["k"], ["z"]),
            helper.make_node("Shape", ["z"], ["s"]),
            helper.make_node("ConstantOfShape", ["s"], ["c"]),
            MATMUL,
            helper.make_node("ReduceSum", ["h"], ["t"], keepdims=0),
            helper.make_node("Add", ["c", "t"], ["y"]),
        ],
        [1, 2],
        [[1, 1], [1, 0]],
    ),
}
"""Nodes, the declared shape, and two values of ``k``: the first gives that shape."""


@pytest.mark.parametrize(("nodes", "declared", "values"), SHAPED.values(), ids=SHAPED)
def test_a_shape_that_values_decide_may_differ_from_the_declared_one(
    nodes: list[onnx.NodeProto], declared: list[int], values: list[list[int]], tmp_path: Path
) -> None:
    made = model(nodes, {"w": weights(32, 32), "zeros": np.array([0, 0])}, {"x": [4, 32]}, {"y": declared})
    made.graph.input.append(helper.make_tensor_value_info("k", onnx.TensorProto.INT64, [2]))
    feeds = [{"x": all_ways.random(4, 32), "k": np.array(values[which])} for which in (0, 0, 1, 0)]
    all_ways.check(made, tmp_path, *feeds, most=None)
