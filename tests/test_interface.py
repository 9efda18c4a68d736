"""A compressed model has the inputs and outputs of its source, however it is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import FLOAT, model, weights
from onnx import TensorProto, helper, numpy_helper

import onnxopt
from onnxopt import runtime
from onnxopt.data import quiet_session
from onnxopt.data.random import runnable_sizes
from onnxopt.search.identity import interface_fault, same

node = helper.make_node
PRODUCT = node("MatMul", ["x", "w"], ["y"])
WEIGHT = {"w": weights(64, 64)}
X: dict[str, Any] = {"x": ["n", 64]}
FEEDS = {"x": np.random.default_rng(0).standard_normal((3, 64), np.float32)}


def with_outputs(*names: str, **more: Any) -> onnx.ModelProto:
    shapes = {"x": ["n", 64], "y": ["n", 64], "w": [64, 64], "k": [40, 40]}
    made = model([PRODUCT], {**WEIGHT, "k": weights(40, 40)}, {**X, **more}, {})
    made.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, shapes[name]) for name in names)
    return made


def sparse(*readers: onnx.NodeProto) -> onnx.ModelProto:
    made = model([PRODUCT, *readers], WEIGHT, X, {})
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "s")
    indices = numpy_helper.from_array(np.array([1, 70, 900]))
    made.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [64, 64]))
    return made


def sparse_inside() -> onnx.ModelProto:
    made = sparse(node("MatMul", ["y", "s"], ["z"]))
    made.graph.output.append(helper.make_tensor_value_info("z", FLOAT, ["n", 64]))
    return made


def sparse_default() -> onnx.ModelProto:
    made = sparse_inside()
    made.graph.input.append(helper.make_tensor_value_info("s", FLOAT, [64, 64]))
    return made


def sequence_of_weights() -> onnx.ModelProto:
    made = model([PRODUCT, node("SequenceConstruct", ["y", "w"], ["q"])], WEIGHT, {**X, "unused": [2]}, {})
    made.graph.output.append(helper.make_tensor_sequence_value_info("q", FLOAT, None))
    made.graph.output.append(helper.make_tensor_value_info("w", FLOAT, [64, 64]))
    return made


def strings() -> onnx.ModelProto:
    made = model([PRODUCT, node("Identity", ["text"], ["same"])], WEIGHT, X, {"y": ["n", 64]})
    made.graph.input.append(helper.make_tensor_value_info("text", TensorProto.STRING, [2]))
    made.graph.output.append(helper.make_tensor_value_info("same", TensorProto.STRING, [2]))
    return made


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "an input that nothing reads": lambda: with_outputs("y", unused=[2]),
    "an input is an output": lambda: with_outputs("x", "y"),
    "an output twice": lambda: with_outputs("y", "x", "y"),
    "a weight that is read is an output": lambda: with_outputs("w", "y"),
    "a weight that is not read is an output": lambda: with_outputs("y", "k"),
    "a sequence beside an unused input": sequence_of_weights,
    "a sparse weight": sparse_inside,
    "a sparse weight that is an input": sparse_default,
    "strings": strings,
}


@pytest.mark.parametrize("name", MODELS)
def test_interface_and_bits_are_the_same_in_every_way_of_loading(name: str, tmp_path: Path) -> None:
    source, small, plain = (tmp_path / file for file in ("m.onnx", "small.onnx", "plain.onnx"))
    onnx.save(MODELS[name](), source)
    result = onnxopt.optimize(source, small, lossless=True)
    assert result.check
    assert not result.unchanged
    original = quiet_session(str(source))
    names = {value.name for value in original.get_inputs()}
    more = {"unused": np.zeros(2, np.float32), "text": np.array(["a", "bc"], object)}
    feeds = {name: array for name, array in (FEEDS | more).items() if name in names}
    wanted = original.run(None, feeds)
    onnxopt.decompress(small, plain)
    sessions = [*runtime.sessions(small), ("decompressed", quiet_session(str(plain))), ("load", runtime.load(small))]
    for how, session in sessions:
        assert not interface_fault(original, session), how
        assert same(wanted, session.run(None, feeds)), how
    assert onnxopt.verify(small).identical_outputs


def test_a_returned_weight_keeps_its_bits(tmp_path: Path) -> None:
    onnx.save(with_outputs("w", "y"), tmp_path / "m.onnx")
    onnxopt.optimize(tmp_path / "m.onnx", tmp_path / "small.onnx")
    returned, _ = onnxopt.load(tmp_path / "small.onnx").run(None, FEEDS)
    assert np.array_equal(returned, WEIGHT["w"])


def test_verify_finds_another_interface(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(with_outputs("y"), source)
    onnxopt.optimize(source, small, lossless=True)
    other = onnx.load(small)
    other.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    onnx.save(other, small)
    with pytest.raises(onnxopt.OnnxoptError, match=r"small\.onnx"):
        onnxopt.verify(small)


def test_interfaces_differ_by_name_type_or_order() -> None:
    def session(*outputs: str) -> onnxruntime.InferenceSession:
        return quiet_session(with_outputs(*outputs).SerializeToString())

    assert not interface_fault(session("y", "x"), session("y", "x"))
    fault = interface_fault(session("y", "x"), session("x", "y"))
    assert (
        fault == "its outputs are 'x' tensor(float), 'y' tensor(float), expected 'y' tensor(float), 'x' tensor(float)"
    )


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (np.array([np.nan, 0.0]), np.array([np.nan, 0.0]), True),
        (np.array([0.0]), np.array([-0.0]), False),
        (np.zeros(2, np.float32), np.zeros(2, np.float64), False),
        (np.zeros((1, 2)), np.zeros((2, 1)), False),
        (np.array(["a", "b"], object), np.array(["a", "b"], object), True),
        (np.array(["a"], object), np.array(["b"], object), False),
        ([np.zeros((2, 2)), np.ones((3, 2))], [np.zeros((2, 2)), np.ones((3, 2))], True),
        ([np.zeros(2)], [np.zeros(2), np.zeros(2)], False),
        ([{1: 0.5, 2: float("nan")}], [{1: 0.5, 2: float("nan")}], True),
        ([{1: 0.5}], [{1: 0.25}], False),
        ({"a": 1}, {"b": 1}, False),
        (None, None, True),
        (None, np.zeros(1), False),
    ],
)
def test_values_of_every_kind_are_compared(a: Any, b: Any, equal: bool) -> None:
    assert same(a, b) is equal


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 3, 1, 2]], ids=["channels first", "channels last"])
def test_channels_are_found_where_all_sizes_are_unknown(order: list[int]) -> None:
    nodes = [node("Transpose", ["x"], ["t"], perm=order), node("Conv", ["t", "w"], ["y"], strides=[2, 2])]
    made = model(nodes, {"w": weights(8, 3, 3, 3)}, {"x": list("abcd")}, {"y": list("efgh")})
    sizes = runnable_sizes(quiet_session(made.SerializeToString()))
    assert sizes["abcd"[order[1]]] == 3
