"""Names: scopes that hide one another, names that rewrites would invent, constants of one name."""

from __future__ import annotations

from pathlib import Path

import all_ways
import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import TensorProto, helper, numpy_helper

from onnxopt import OnnxoptError, optimize
from onnxopt.graph import normalise
from onnxopt.graph.walk import defined, subgraphs

node = helper.make_node
X = {"x": all_ways.random(3, 32)}


def tensor(name: str, seed: int) -> onnx.TensorProto:
    return numpy_helper.from_array(weights(32, 32, seed=seed, scale=0.2), name)


def value(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, None)


def branch(seed: int, x: str = "x") -> onnx.GraphProto:
    """``relu(x w)`` with a ``w`` of its own."""
    nodes = [node("MatMul", [x, "w"], ["t"], "product"), node("Relu", ["t"], ["o"])]
    return helper.make_graph(nodes, "branch", [], [value("o")], [tensor("w", seed)])


def choosing(then: onnx.GraphProto, other: onnx.GraphProto, x: str = "x", y: str = "y") -> onnx.NodeProto:
    return node("If", ["c"], [y], then_branch=then, else_branch=other)


def with_condition(made: onnx.ModelProto) -> onnx.ModelProto:
    made.graph.input.append(helper.make_tensor_value_info("c", TensorProto.BOOL, []))
    return made


def both(feeds: dict[str, object]) -> list[dict[str, object]]:
    return [{**feeds, "c": np.array(flag)} for flag in (True, False)]


def test_branches_hide_a_weight_of_the_main_graph(tmp_path: Path) -> None:
    nodes = [choosing(branch(1), branch(2), y="h"), node("MatMul", ["h", "w"], ["y"])]
    made = with_condition(model(nodes, {"w": weights(32, 32)}, {"x": ["n", 32]}, {"y": ["n", 32]}))
    all_ways.check(made, tmp_path, *both(X))


def test_a_branch_in_a_loop_hides_what_the_loop_hides(tmp_path: Path) -> None:
    body = helper.make_graph(
        [node("MatMul", ["state", "w"], ["s"]), choosing(branch(3, "s"), branch(4, "s"), y="next"),
         node("Identity", ["going"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []),
         helper.make_tensor_value_info("going", TensorProto.BOOL, []), value("state")],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), value("next")],
        [tensor("w", 5)],
    )  # fmt: skip
    nodes = [node("Loop", ["turns", "", "x"], ["z"], body=body), node("MatMul", ["z", "w"], ["y"])]
    constants = {"w": weights(32, 32), "turns": np.array(2)}
    made = with_condition(model(nodes, constants, {"x": ["n", 32]}, {"y": ["n", 32]}))
    # One row: the runtime then multiplies matrices that it has packed and others by different kernels.
    all_ways.check(made, tmp_path, *both(X), *both({"x": all_ways.random(1, 32)}))


def test_branches_return_their_own_constants(tmp_path: Path) -> None:
    constant = helper.make_graph([node("Constant", [], ["o"], value=tensor("", 1))], "then", [], [value("o")])
    initializer = helper.make_graph([], "else", [], [value("o")], [tensor("o", 2)])
    nodes = [choosing(constant, initializer, y="w"), node("MatMul", ["x", "w"], ["y"])]
    all_ways.check(with_condition(model(nodes, {}, {"x": ["n", 32]}, {"y": ["n", 32]})), tmp_path, *both(X))


@pytest.mark.parametrize(
    "names",
    [
        ("w", "w@u", "w@float", "x@exact"),
        ("a b/c'\"\\é漢", "@one", "w.2", "w"),
        ("onnxopt.container", "onnxopt.released", "a", "b"),
    ],
)
def test_names_of_any_form_are_free_to_use(names: tuple[str, ...], tmp_path: Path) -> None:
    first, second, h, r = names
    nodes = [node("MatMul", ["x", first], [h], h), node("Relu", [h], [r], f"{h}@u"),
             node("MatMul", [r, second], ["y"], first)]  # fmt: skip
    constants = {first: weights(32, 32, scale=0.2), second: weights(32, 32, seed=1, scale=0.2)}
    all_ways.check(model(nodes, constants, {"x": ["n", 32]}, {"y": ["n", 32]}), tmp_path, X)


@pytest.mark.parametrize(("x", "y"), [("onnxopt.container", "onnxopt.released"), ("x@float", "x"), ("y", "y@float")])
def test_inputs_and_outputs_keep_any_name(x: str, y: str, tmp_path: Path) -> None:
    nodes = [node("MatMul", [x, "w"], ["h"]), node("Relu", ["h"], [y])]
    made = model(nodes, {"w": weights(32, 32, scale=0.2)}, {x: ["n", 32]}, {y: ["n", 32]})
    all_ways.check(made, tmp_path, {x: X["x"]})


def test_a_folded_batch_norm_takes_no_name_of_others(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], ["w@bn"]), node("BatchNormalization", ["w@bn", "g", "b", "m", "v"], ["n"]),
             node("Conv", ["n", "w@bn.bias"], ["y"])]  # fmt: skip
    vectors = {name: weights(16, seed=seed) for seed, name in enumerate("gbm")} | {"v": np.ones(16, np.float32)}
    constants = {"w": weights(16, 3, 3, 3, scale=0.2), "w@bn.bias": weights(16, 16, 3, 3, seed=9), **vectors}
    made = model(nodes, constants, {"x": ["n", 3, 8, 8]}, {"y": ["n", 16, 4, 4]})
    all_ways.check(made, tmp_path, {"x": all_ways.random(2, 3, 8, 8)}, most=0.2)


def test_normal_form_has_every_name_once_and_room_for_parts() -> None:
    nodes = [choosing(branch(1), branch(2), y="t"), node("MatMul", ["t", "t@w"], ["w@part"]),
             node("Relu", ["w@part"], ["y"])]  # fmt: skip
    made = with_condition(model(nodes, {"t@w": weights(32, 32)}, {"x": ["n", 32]}, {"y": ["n", 32]}))
    normalise(made)
    names = [name for graph in subgraphs(made.graph) for name in defined(graph)]
    assert len(names) == len(set(names))
    assert not any("@" in name for name in names)
    labels = [one.name for graph in subgraphs(made.graph) for one in graph.node if one.name]
    assert len(labels) == len(set(labels))


def test_constants_of_one_name_have_to_be_equal(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], {}, {"x": ["n", 32]}, {"y": ["n", 32]})
    made.graph.initializer.extend([tensor("w", 1), tensor("w", 1)])
    all_ways.check(made, tmp_path, X, most=None)
    made.graph.node.insert(0, node("Constant", [], ["w"], value=tensor("", 2)))
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(OnnxoptError, match=r"model\.onnx: two different constants are called 'w'"):
        optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "w_w"], ["y"])], {"w_w": weights(32, 32)}, {"x": ["n", 32]}, {"y": ["n", 32]})
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString().replace(b"w_w", b"w\xffw"))
    with pytest.raises(OnnxoptError, match=r"model\.onnx: the name b'w\\xffw' is no UTF-8"):
        optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
