"""Models of half precision: statistics are measured in single precision, and what is written stays as it was."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import cnn, lstm, mlp
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import onnxopt
from onnxopt.data import quiet_session, runnable_feeds
from onnxopt.files import set_aside
from onnxopt.graph import single
from onnxopt.graph.single import in_single


def half(model: onnx.ModelProto, keep_io_types: bool = False) -> onnx.ModelProto:
    return convert_float_to_float16(model, keep_io_types=keep_io_types)


def branching() -> onnx.ModelProto:
    """If x is large, x + w, else x - w: both branches read an input, and one has a weight of its own."""
    w = numpy_helper.from_array(np.arange(6, dtype=np.float16).reshape(2, 3), "w")
    own = numpy_helper.from_array(np.ones((2, 3), np.float16), "own")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2, 3]) for name in "xy")
    a, b = (helper.make_tensor_value_info(name, TensorProto.FLOAT16, [2, 3]) for name in "ab")
    most = helper.make_tensor_value_info("m", TensorProto.BOOL, [])
    then = helper.make_graph([helper.make_node("Add", ["x", "w"], ["a"])], "then", [], [a])
    other = helper.make_graph([helper.make_node("Sub", ["x", "own"], ["b"])], "other", [], [b], [own])
    branch = helper.make_node("If", ["m"], ["y"], then_branch=then, else_branch=other)
    graph = helper.make_graph([branch], "g", [x, most], [y], [w])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("model", [half(mlp()), half(mlp(), True), half(cnn()), half(lstm()), branching()],
                         ids=["mlp", "floats at the border", "cnn", "lstm", "if"])  # fmt: skip
def test_it_computes_the_same(model: onnx.ModelProto) -> None:
    made = in_single(model)
    assert made is not None
    assert all(tensor.data_type != TensorProto.FLOAT16 for tensor in made[0].graph.initializer)
    original, other = (quiet_session(one.SerializeToString()) for one in (model, made[0]))
    for feeds in runnable_feeds(original, 4):
        for wanted, got in zip(original.run(None, feeds), other.run(None, feeds), strict=True):
            assert np.allclose(wanted.astype(np.float32), got, rtol=1e-2, atol=1e-2)


def test_what_is_in_single_precision_already_stays() -> None:
    assert in_single(mlp()) is None


def test_large_weights_are_set_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(single, "_WORTH", 0)
    monkeypatch.setattr(set_aside, "LEAST", 1024)
    model = half(mlp(64), True)
    made = in_single(model)
    assert made is not None and made[1] is not None
    assert made[0].ByteSize() < model.ByteSize()
    (feeds,) = runnable_feeds(quiet_session(model.SerializeToString()), 1)
    plain = in_single(model)
    assert plain is not None
    outputs = [quiet_session(one[0].SerializeToString()).run(None, feeds)[0] for one in (made, plain)]
    assert np.allclose(*outputs, rtol=1e-5)
    del made, plain
    assert not list(tmp_path.glob("**/weights-*"))


@pytest.mark.parametrize("keep_io_types", [False, True])
def test_a_model_of_half_precision_is_quantized_on_data(keep_io_types: bool, tmp_path: Path) -> None:
    """The outputs keep their type, the weights too, and the contract holds."""
    source, small = tmp_path / "model.onnx", tmp_path / "small.onnx"
    onnx.save(half(mlp(64), keep_io_types), source)
    session = onnxruntime.InferenceSession(source)
    feeds = runnable_feeds(session, 64)
    result = onnxopt.optimize(source, small, data=lambda: iter(feeds))
    assert result.status == "met" and result.bytes_after < 0.5 * result.bytes_before
    other = onnxopt.load(small)
    assert [one.type for one in other.get_outputs()] == [one.type for one in session.get_outputs()]
    noise = signal = 0.0
    for one in feeds:
        wanted, got = (each.run(None, one)[0].astype(np.float32) for each in (session, other))
        noise, signal = noise + float(np.square(wanted - got).sum()), signal + float(np.square(wanted).sum())
    assert noise <= (0.1**2) * signal
