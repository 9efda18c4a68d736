"""Preparation for INT8 kernels: a later opset and batch normalizations as convolutions compute the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper

import onnxopt
from onnxopt import Contract
from onnxopt.data import quiet_session
from onnxopt.graph.rewrite.batchnorm_to_conv import batchnorm_to_conv
from onnxopt.graph.rewrite.opset import OPSET, raise_opset, version

Array = np.ndarray[Any, Any]
CHANNELS = 16
X = np.random.default_rng(0).standard_normal((4, CHANNELS, 6, 6)).astype(np.float32)


def statistics(prefix: str = "") -> dict[str, Array]:
    positive = np.abs(weights(CHANNELS, seed=4)) + 0.5
    return {f"{prefix}{name}": array for name, array in zip(
        ("gamma", "beta", "mean", "variance"),
        (weights(CHANNELS, seed=1) + 1, weights(CHANNELS, seed=2), weights(CHANNELS, seed=3), positive), strict=True,
    )}  # fmt: skip


def norm(x: str, y: str, prefix: str = "", **attributes: Any) -> onnx.NodeProto:
    names = [f"{prefix}{name}" for name in ("gamma", "beta", "mean", "variance")]
    return helper.make_node("BatchNormalization", [x, *names], [y], name=f"norm {y}", **attributes)


def preactivated() -> onnx.ModelProto:
    """x -> Conv -> (sum of it and a Conv of its normalised rectified values) -> Norm -> Relu -> Conv -> y."""
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], "conv0"),
        norm("c0", "n1", "one."),
        helper.make_node("Relu", ["n1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c0", "c1"], ["s"], "add"),
        norm("s", "n2", "two.", epsilon=1e-3),
        helper.make_node("Relu", ["n2"], ["r2"], "relu2"),
        helper.make_node("Conv", ["r2", "w2"], ["y"], "conv2"),
    ]
    tensors = {
        "w0": weights(CHANNELS, CHANNELS, 1, 1, seed=5), "w1": weights(CHANNELS, CHANNELS, 3, 3, seed=6),
        "w2": weights(8, CHANNELS, 1, 1, seed=7), **statistics("one."), **statistics("two."),
    }  # fmt: skip
    return model(nodes, tensors, {"x": ["n", CHANNELS, 6, 6]}, {"y": ["n", 8, 6, 6]})


def run(made: onnx.ModelProto, x: Array = X) -> Array:
    return np.asarray(quiet_session(made.SerializeToString()).run(None, {"x": x})[0])


def test_norms_of_images_become_convolutions_of_the_same_function() -> None:
    made, wanted = preactivated(), run(preactivated())
    assert batchnorm_to_conv(made) == 2
    assert [node.op_type for node in made.graph.node].count("Conv") == 5
    np.testing.assert_allclose(run(made), wanted, atol=1e-5 * np.abs(wanted).max())
    names = {tensor.name for tensor in made.graph.initializer}
    assert {"one.gamma", "one.beta"} < names  # weights keep their names
    assert names.isdisjoint(("one.mean", "one.variance", "two.mean", "two.variance"))
    onnx.checker.check_model(made)


def single(shape: list[Any], y: list[Any], tensors: dict[str, Array], **attributes: Any) -> onnx.ModelProto:
    return model([norm("x", "y", **attributes)], tensors, {"x": shape}, {"y": y})


@pytest.mark.parametrize("case", ["flat", "training", "shared", "fed"])
def test_others_stay(case: str) -> None:
    image = ["n", CHANNELS, 6, 6]
    made = single(image, image, statistics())
    if case == "flat":
        made = single(["n", CHANNELS], ["n", CHANNELS], statistics())
    elif case == "training":
        made.graph.node[0].attribute.append(helper.make_attribute("training_mode", 1))
    elif case == "shared":
        made.graph.node.append(helper.make_node("Identity", ["gamma"], ["g"]))
        made.graph.output.append(helper.make_tensor_value_info("g", onnx.TensorProto.FLOAT, [CHANNELS]))
    else:
        made.graph.input.append(helper.make_tensor_value_info("gamma", onnx.TensorProto.FLOAT, [CHANNELS]))
    before = made.SerializeToString()
    assert batchnorm_to_conv(made) == 0
    assert made.SerializeToString() == before


def test_old_operators_are_raised() -> None:
    old = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 4]}, {"y": ["n", 4]}, opset=9)
    assert version(old) == 9
    assert version(raise_opset(old)) >= OPSET


def test_a_network_with_norms_runs_in_integers_and_its_plan_repeats_it(tmp_path: Path) -> None:
    onnx.save(preactivated(), tmp_path / "model.onnx")
    x = np.random.default_rng(1).standard_normal((64, CHANNELS, 6, 6), np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    small = tmp_path / "small.onnx"
    result = onnxopt.optimize(
        tmp_path / "model.onnx", small, Contract(error=0.1), data=tmp_path / "data.npz", activations=8
    )
    found = result.strategy("int8")
    assert found is not None
    assert found.kept
    operators = [node.op_type for node in onnxopt.decompress(small).graph.node]
    assert "BatchNormalization" not in operators
    assert operators.count("Conv") == 5
    again = tmp_path / "again.onnx"
    onnxopt.apply(tmp_path / "model.onnx", result.plan, again, data=tmp_path / "data.npz")
    assert again.read_bytes() == small.read_bytes()
