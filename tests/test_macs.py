"""Multiply-accumulates against counts by hand."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import FLOAT, branches, cnn, lstm, mlp, model, weights
from onnx import helper, numpy_helper

from onnxopt import OnnxoptError
from onnxopt.graph import macs, parameters, weight_macs


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def one(op: str, feeds: dict[str, np.ndarray], *tensors: np.ndarray, **attributes: object) -> int:
    """Of a single node whose first inputs are fed and whose others are constants."""
    constants = {f"w{i}": tensor for i, tensor in enumerate(tensors)}
    node = helper.make_node(op, [*feeds, *constants], ["y"], "node", **attributes)
    shapes = {name: [None] * array.ndim for name, array in feeds.items()}
    made = model([node], constants, shapes, {"y": None})
    found = macs(made, feeds)
    assert found.keys() == {"node"}
    return found["node"]


def test_convolutions() -> None:
    # 1-D: outputs 2 x 5 x (20 - 3 + 1), each of 4 channels x 3 taps
    assert one("Conv", {"x": zeros(2, 4, 20)}, weights(5, 4, 3)) == 2 * 5 * 18 * 4 * 3
    assert one("Conv", {"x": zeros(1, 3, 9, 9)}, weights(8, 3, 3, 3), pads=[1, 1, 1, 1]) == 8 * 81 * 27
    assert one("Conv", {"x": zeros(1, 3, 9, 9)}, weights(8, 3, 3, 3), strides=[2, 2]) == 8 * 16 * 27
    assert one("Conv", {"x": zeros(1, 3, 9, 9)}, weights(8, 3, 3, 3), dilations=[2, 2]) == 8 * 25 * 27
    assert one("Conv", {"x": zeros(1, 6, 9, 9)}, weights(6, 1, 3, 3), group=6) == 6 * 49 * 9
    assert one("Conv", {"x": zeros(1, 6, 9, 9)}, weights(4, 3, 3, 3), weights(4), group=2) == 4 * 49 * 27
    assert one("Conv", {"x": zeros(1, 2, 5, 6, 7)}, weights(3, 2, 2, 2, 2)) == 3 * (4 * 5 * 6) * 16
    assert one("ConvTranspose", {"x": zeros(1, 4, 5, 5)}, weights(4, 3, 2, 2), strides=[2, 2]) == 4 * 25 * 12
    assert one("ConvTranspose", {"x": zeros(1, 4, 7)}, weights(4, 3, 2), group=2) == 4 * 7 * 6


def test_products() -> None:
    assert one("MatMul", {"x": zeros(7, 5)}, weights(5, 3)) == 7 * 5 * 3
    assert one("MatMul", {"a": zeros(2, 3, 7, 5), "b": zeros(3, 5, 4)}) == 2 * 3 * 7 * 5 * 4
    assert one("MatMul", {"x": zeros(5)}, weights(5, 3)) == 15
    assert one("MatMul", {"x": zeros(7, 5)}, weights(5)) == 35
    assert one("Gemm", {"x": zeros(7, 5)}, weights(5, 3), weights(3)) == 7 * 5 * 3
    assert one("Gemm", {"x": zeros(5, 7)}, weights(3, 5), transA=1, transB=1) == 7 * 5 * 3


@pytest.mark.parametrize(("op", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent(op: str, gates: int, direction: str) -> None:
    ways, units = 1 + (direction != "forward"), 6
    w, r = weights(ways, gates * units, 5), weights(ways, gates * units, units)
    found = one(op, {"x": zeros(11, 2, 5)}, w, r, hidden_size=units, direction=direction)
    assert found == 11 * 2 * ways * gates * units * (5 + units)


def test_integers() -> None:
    x, w = np.zeros((1, 3, 9, 9), np.uint8), np.zeros((8, 3, 3, 3), np.uint8)
    one_scale, zero = np.float32(1), np.uint8(0)
    names = ["x", "s", "z", "w", "s", "z", "s", "z"]
    node = helper.make_node("QLinearConv", names, ["y"], "node")
    graph = helper.make_graph(
        [node], "test",
        [helper.make_tensor_value_info("x", onnx.TensorProto.UINT8, x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in {"s": one_scale, "z": zero, "w": w}.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert macs(made, {"x": x}) == {"node": 8 * 49 * 27}


def test_whole_models() -> None:
    assert macs(mlp(64), {"x": zeros(3, 64)}) == {"mm": 3 * 64 * 128, "gemm": 3 * 128 * 10}
    found = macs(cnn(), {"x": zeros(2, 3, 16, 16)})
    assert found == {"conv1": 2 * 16 * 256 * 27, "depthwise": 2 * 16 * 49 * 9, "up": 2 * 16 * 49 * 16}
    assert list(macs(lstm(), {"x": zeros(5, 1, 16)}).values()) == [5 * 128 * 48]
    assert parameters(mlp(64)) == 64 * 128 + 128 * 10 + 10


def test_by_weight() -> None:
    assert weight_macs(mlp(64), {"x": zeros(3, 64)}) == {"fc1": 3 * 64 * 128, "fc2": 3 * 128 * 10}
    assert weight_macs(cnn(), {"x": zeros(2, 3, 16, 16)}) == {
        "w1": 2 * 16 * 256 * 27, "w2": 2 * 16 * 49 * 9, "w3": 2 * 16 * 49 * 16,
    }  # fmt: skip
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    twice = model(nodes, {"w": weights(5, 5)}, {"x": [7, 5]}, {"y": [7, 5]})
    assert weight_macs(twice, {"x": zeros(7, 5)}) == {"w": 2 * 7 * 25}


def test_a_recurrent_nodes_weights_share_its_count() -> None:
    w, r = weights(1, 24, 5), weights(1, 24, 6, seed=1)
    node = helper.make_node("LSTM", ["x", "w", "r"], ["y"], "node", hidden_size=6)
    made = model([node], {"w": w, "r": r}, {"x": [11, 2, 5]}, {"y": [11, 1, 2, 6]})
    assert weight_macs(made, {"x": zeros(11, 2, 5)}) == {"w": 22 * 24 * 5, "r": 22 * 24 * 6}


def test_only_the_branch_that_runs_counts() -> None:
    for sign in (1, -1):
        assert list(macs(branches(), {"x": np.full((3, 16), sign, np.float32)}).values()) == [3 * 16 * 16]


def test_a_loop_counts_every_turn() -> None:
    body = helper.make_graph(
        [helper.make_node("MatMul", ["s", "w"], ["t"], "inner"), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("i", onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info("go", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("s", FLOAT, [2, 8]),
        ],
        [
            helper.make_tensor_value_info("on", onnx.TensorProto.BOOL, []),
            helper.make_tensor_value_info("t", FLOAT, [2, 8]),
        ],
    )
    node = helper.make_node("Loop", ["n", "", "x"], ["y"], "loop", body=body)
    made = model([node], {"n": np.int64(5), "w": weights(8, 8)}, {"x": [2, 8]}, {"y": [2, 8]})
    assert macs(made, {"x": zeros(2, 8)}) == {"inner": 5 * 2 * 8 * 8}


def test_nodes_without_names_are_kept_apart() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["y"])]
    made = model(nodes, {"w": weights(8, 8)}, {"x": ["n", 8]}, {"y": ["n", 8]})
    assert macs(made, {"x": zeros(3, 8)}) == {"MatMul.0": 192, "MatMul.1": 192}
    assert not made.graph.node[0].name  # the model is left as it was


def test_a_model_that_does_not_run_is_said() -> None:
    with pytest.raises(OnnxoptError, match="cannot be counted"):
        macs(mlp(64), {"x": zeros(3, 65)})
