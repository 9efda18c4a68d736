"""Cross-layer equalization: the same function, with channels of similar ranges."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from onnxopt.data import quiet_session
from onnxopt.graph import expose
from onnxopt.graph.rewrite.equalise import channel_peaks, equalize, neighbours

Array = np.ndarray[Any, Any]
Made = tuple[onnx.ModelProto, Array]
CHANNELS = 8


def uneven(count: int, seed: int) -> Array:
    """Positive numbers of very different sizes."""
    return np.exp(np.random.default_rng(seed).uniform(-3, 0.5, count)).astype(np.float32)


def between(kind: str) -> tuple[list[NodeProto], dict[str, Array]]:
    """Nodes from c to r."""
    constants = {"zero": np.float32(0), "six": np.float32(6), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    nodes = {
        "relu": [helper.make_node("Relu", ["c"], ["r"])],
        "leaky": [helper.make_node("LeakyRelu", ["c"], ["r"], alpha=0.1)],
        "prelu": [helper.make_node("PRelu", ["c", "slope"], ["r"])],
        "clip": [helper.make_node("Clip", ["c", "zero", "six"], ["r"])],
        "none": [helper.make_node("Pad", ["c", "pads"], ["r"])],
        "pools": [
            helper.make_node("Relu", ["c"], ["a"]),
            helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], pads=[1, 1, 0, 0]),
            helper.make_node("AveragePool", ["b"], ["r"], kernel_shape=[2, 2]),
        ],
    }
    return nodes[kind], {"slope": weights(CHANNELS, 1, 1, seed=9), **constants}


def convs(kind: str, groups: int = 1, seed: int = 0, bias: bool = True, between_: Sequence[NodeProto] = ()) -> Made:
    """x[n, 3, 9, 9] -> Conv -> what `kind` says -> Conv with groups -> y."""
    middle, tensors = between(kind) if not between_ else (list(between_), between("relu")[1])
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"] if bias else ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        *middle,
        helper.make_node("Conv", ["r", "w2", "b2"], ["y"], group=groups),
    ]
    scale = uneven(CHANNELS, seed)
    tensors = tensors | {
        "w1": weights(CHANNELS, 3, 3, 3, seed=seed, scale=0.3) * scale.reshape(-1, 1, 1, 1),
        "b1": weights(CHANNELS, seed=seed + 1, scale=0.3) * scale,
        "w2": weights(16, CHANNELS // groups, 3, 3, seed=seed + 2),
        "b2": weights(16, seed=seed + 3),
    }
    used = {name for node in nodes for name in node.input}
    made = model(
        nodes, {k: v for k, v in tensors.items() if k in used}, {"x": ["n", 3, 9, 9]}, {"y": ["n", 16, "h", "w"]}
    )
    return made, np.random.default_rng(seed).normal(size=(6, 3, 9, 9)).astype(np.float32)


def head(flatten: bool, transposed: bool) -> Made:
    """x[n, 3, 5, 5] -> Conv -> Relu -> GlobalAveragePool and Reshape, or Flatten -> Gemm -> Relu -> Gemm -> y[n, 4]."""
    positions = 25 if flatten else 1
    flat = [helper.make_node("Flatten", ["r"], ["f"])]
    if not flatten:
        flat = [
            helper.make_node("GlobalAveragePool", ["r"], ["p"]),
            helper.make_node("Reshape", ["p", "shape"], ["f"]),
        ]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        *flat,
        helper.make_node("Gemm", ["f", "w2", "b2"], ["g"], transB=int(transposed)),
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("Gemm", ["h", "w3"], ["y"], alpha=0.5),
    ]
    w2 = weights(10, CHANNELS * positions, seed=2) * uneven(10, 3).reshape(-1, 1)
    tensors = {
        "w1": weights(CHANNELS, 3, 3, 3) * uneven(CHANNELS, 4).reshape(-1, 1, 1, 1),
        "w2": w2 if transposed else np.ascontiguousarray(w2.T),
        "b2": weights(1, 10, seed=5),
        "w3": weights(10, 4, seed=6),
    } | ({} if flatten else {"shape": np.array([-1, CHANNELS])})
    made = model(nodes, tensors, {"x": ["n", 3, 5, 5]}, {"y": ["n", 4]})
    return made, np.random.default_rng(0).normal(size=(6, 3, 5, 5)).astype(np.float32)


def copied(made: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(made)
    return other


def run(made: onnx.ModelProto, x: Array, value: str = "y") -> Array:
    return np.asarray(quiet_session(expose(made, [value])).run(None, {"x": x})[0])


def equalized(made: onnx.ModelProto, x: Array) -> tuple[onnx.ModelProto, int]:
    other = copied(made)
    peaks = channel_peaks(made, [pair.value for pair in neighbours(made)], [{"x": x[:2]}, {"x": x[2:]}])
    return other, len(equalize(other, peaks))


def same(a: Array, b: Array) -> bool:
    return bool(np.abs(a - b).max() <= 2e-5 * np.abs(a).max())


def spread(made: onnx.ModelProto, x: Array, value: str) -> float:
    """Least channel's peak beside the largest."""
    values = np.abs(run(made, x, value))
    peaks = values.max((0, *range(2, values.ndim)))
    return float(peaks.min() / peaks.max())


@pytest.mark.parametrize("groups", [1, 2, CHANNELS])
@pytest.mark.parametrize("kind", ["relu", "leaky", "prelu", "none", "pools"])
def test_equalized_convolutions_compute_the_same(kind: str, groups: int) -> None:
    made, x = convs(kind, groups, bias=kind != "leaky")
    other, count = equalized(made, x)
    assert count == 1
    new = np.random.default_rng(1).normal(size=x.shape).astype(np.float32) * 10
    assert same(run(made, x), run(other, x))
    assert same(run(made, new), run(other, new))
    value = neighbours(made)[0].value
    assert spread(other, x, value) > 2 * spread(made, x, value)
    if groups == CHANNELS:
        assert spread(other, x, value) > 0.99


@pytest.mark.parametrize("flatten", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
def test_heads(flatten: bool, transposed: bool) -> None:
    made, x = head(flatten, transposed)
    assert [(p.first, p.second, p.channels) for p in neighbours(made)] == [("w1", "w2", CHANNELS), ("w2", "w3", 10)]
    other, count = equalized(made, x)
    assert count == 2
    assert same(run(made, 3 * x), run(other, 3 * x))
    assert spread(other, x, "r") > 1.5 * spread(made, x, "r")


@given(st.integers(0, 10_000), st.sampled_from([1, CHANNELS]), st.sampled_from([0.3, 1.0, 3.0]))
@settings(deadline=None, max_examples=25)
def test_no_channel_newly_reaches_a_clip(seed: int, groups: int, size: float) -> None:
    made, x = convs("clip", groups, seed)
    x = x * np.float32(size)
    other, _ = equalized(made, x)
    before, after = run(made, x, "c") >= 6, run(other, x, "c") >= 6
    assert (before == after).all()
    assert same(run(made, x), run(other, x))


def test_channels_at_the_bound_are_left_and_others_have_room() -> None:
    made, x = convs("clip", CHANNELS)
    tensors = {t.name: t for t in made.graph.initializer}
    w = numpy_helper.to_array(tensors["w1"]).copy()
    w[0] *= 20 / np.abs(run(made, x, "c")[:, 0]).max()
    tensors["w1"].CopyFrom(numpy_helper.from_array(w, "w1"))
    x = np.abs(x)
    peaks = channel_peaks(made, ["r"], [{"x": x}])
    [(pair, factors)] = equalize(copied(made), peaks)
    at = peaks["r"] >= 6
    assert pair.depthwise
    assert at.any() == (factors[at] == 1).all()
    assert (factors * peaks["r"])[~at].max() <= 5.4 + 1e-6
    other, _ = equalized(made, x)
    near = (1.05 * x).astype(np.float32)  # somewhat more than was seen
    assert same(run(made, near)[:, 2:], run(other, near)[:, 2:])


def test_dead_channels_are_left() -> None:
    made, x = convs("relu", CHANNELS)
    tensors = {t.name: t for t in made.graph.initializer}
    for name in ("w1", "b1"):
        values = numpy_helper.to_array(tensors[name]).copy()
        values[3] = -0.0
        values[4] *= 1e-9
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    other, _ = equalized(made, x)
    assert same(run(made, x), run(other, x))
    weight = {t.name: numpy_helper.to_array(t) for t in other.graph.initializer}["w1"]
    assert np.isfinite(weight).all()
    assert np.abs(weight[4]).max() < 1e-4  # it may be alive on other inputs


def _second_reader(made: onnx.ModelProto) -> None:
    made.graph.node.append(helper.make_node("Relu", ["r"], ["z"]))
    made.graph.output.append(onnx.ValueInfoProto(name="z"))


def _seen_by_the_user(made: onnx.ModelProto) -> None:
    made.graph.output.append(onnx.ValueInfoProto(name="c"))


def _shared_weight(made: onnx.ModelProto) -> None:
    made.graph.node.append(helper.make_node("Conv", ["x", "w1"], ["z"]))
    made.graph.output.append(onnx.ValueInfoProto(name="z"))


def _bias_may_be_fed(made: onnx.ModelProto) -> None:
    made.graph.input.append(helper.make_tensor_value_info("b1", onnx.TensorProto.FLOAT, [CHANNELS]))


def _made_weight(made: onnx.ModelProto) -> None:
    made.graph.node.insert(0, helper.make_node("Identity", ["w2"], ["w2copy"]))
    made.graph.node[-1].input[1] = "w2copy"


@pytest.mark.parametrize("change", [_second_reader, _seen_by_the_user, _shared_weight, _bias_may_be_fed, _made_weight])
def test_what_others_read_is_left(change: Any) -> None:
    made, _ = convs("relu")
    change(made)
    assert neighbours(made) == []


def test_what_does_not_commute_with_scales_is_left() -> None:
    for node in (
        helper.make_node("Sigmoid", ["c"], ["r"]),
        helper.make_node("HardSwish", ["c"], ["r"]),
        helper.make_node("Clip", ["c", "six"], ["r"]),
        helper.make_node("Clip", ["c", "zero", "x"], ["r"]),
        helper.make_node("Add", ["c", "c"], ["r"]),
        helper.make_node("Pad", ["c", "pads", "six"], ["r"]),
        helper.make_node("Pad", ["c", "pads"], ["r"], mode="reflect"),
        helper.make_node("Transpose", ["c"], ["r"], perm=[0, 1, 3, 2]),
        helper.make_node("Relu", ["c"], ["r"], domain="elsewhere"),
    ):
        assert neighbours(convs("relu", between_=[node])[0]) == []


def test_without_peaks_nothing_changes() -> None:
    made, _ = convs("relu")
    other = copied(made)
    assert equalize(other, {}) == []
    assert equalize(other, {"r": np.zeros(CHANNELS)}) == []
    assert equalize(other, {"r": np.full(CHANNELS, np.nan)}) == []
    assert equalize(other, {"r": np.ones(3)}) == []
    assert other == made


def test_peaks_are_those_of_the_data() -> None:
    made, x = convs("leaky")
    wanted = np.abs(run(made, x, "r")).max((0, 2, 3))
    np.testing.assert_allclose(channel_peaks(made, ["r"], [{"x": x[:1]}, {"x": x[1:]}])["r"], wanted, rtol=1e-5)
    assert channel_peaks(made, [], []) == {}
