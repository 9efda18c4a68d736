"""Low-rank passes and what is around the layer: shared weights, names, and layers that stay as they are."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import ALL, branches, lstm, model, weights
from factoring import (
    assert_same,
    factored,
    graph_of,
    one_node,
    run,
    shapes,
)
from onnx import helper, numpy_helper

from onnxopt.build.execute_plan import execute_plan
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Stats
from onnxopt.passes import Skip, Structural
from onnxopt.passes.low_rank.spatial import Spatial
from onnxopt.passes.low_rank.svd import Svd
from onnxopt.passes.low_rank.tucker import Tucker
from onnxopt.spec.plan import Plan, Step


def test_a_shared_weight_is_factorised_once() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["b"], "second"),
        helper.make_node("Gemm", ["b", "w"], ["c"], "tied", transB=1),
        helper.make_node("Gemm", ["w", "c"], ["y"], "left", transB=1),
    ]
    made = model(nodes, {"w": weights(12, 12)}, {"x": ["n", 12]}, {"y": [12, "n"]})
    graph = factored(made, Svd(12))
    assert shapes(graph) == {"v": (12, 12), "u": (12, 12)}
    assert_same(made, graph, {"x": weights(4, 12, seed=1)})


def test_a_shared_kernel_keeps_each_nodes_strides() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["a", "w", "b"], ["y"], "second", strides=[2, 2]),
    ]
    made = model(nodes, {"w": weights(4, 4, 3, 3), "b": weights(4)}, {"x": [1, 4, 9, 9]}, {"y": None})
    for decision in (Svd(4), Tucker(4, 4), Spatial(12)):
        assert_same(made, factored(made, decision), {"x": weights(1, 4, 9, 9, seed=1)})


def test_names_say_where_nodes_come_from() -> None:
    made = one_node("Conv", weights(1, 4, 9, 9), weights(8, 4, 3, 3), weights(8))
    graph = factored(made, Tucker(2, 3))
    assert [node.name for node in graph.model.graph.node] == ["layer@in", "layer@core", "layer"]
    assert [list(node.output) for node in graph.model.graph.node] == [["y@in"], ["y@core"], ["y"]]
    assert [len(node.input) for node in graph.model.graph.node] == [2, 2, 3]


def test_factors_can_be_factorised_again_and_quantized() -> None:
    made = one_node("Conv", weights(1, 6, 9, 9), weights(8, 6, 3, 3))
    graph = factored(made, Tucker(6, 8))
    (core,) = [site for site in graph.sites() if site.path == "w@core"]
    Spatial(18).apply(graph, core, Stats())
    assert_same(made, graph, {"x": weights(1, 6, 9, 9, seed=3)})
    assert {site.path for site in graph.sites()} == {"w@in", "w@out", "w@core@v", "w@core@h"}


@pytest.mark.parametrize("opset", [7, 10])
def test_old_operators(opset: int) -> None:
    """Where a Gemm without a bias is none."""
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=2.0)
    made = model([node], {"w": weights(8, 12), "b": weights(8)}, {"x": [3, 12]}, {"y": [3, 8]}, opset, 5)
    assert_same(made, factored(made, Svd(8)), {"x": weights(3, 12)})


def test_half_precision_stays_half() -> None:
    x, w = weights(3, 12).astype(np.float16), weights(12, 8, seed=1).astype(np.float16)
    made = one_node("MatMul", x, w)
    for value in (*made.graph.input, *made.graph.output):
        value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    graph = factored(made, Svd(8))
    assert {t.data_type for t in graph.model.graph.initializer} == {onnx.TensorProto.FLOAT16}
    assert_same(made, graph, {"x": x}, 5e-3)


def test_factors_have_names_of_their_own() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "n"), helper.make_node("Add", ["y", "w@u"], ["z"], "n@u")]
    made = model(nodes, {"w": weights(8, 8), "w@u": weights(8)}, {"x": [1, 8]}, {"z": None})
    assert_same(made, factored(made, Svd(8)), {"x": weights(1, 8)})


def test_a_layer_whose_factors_need_the_name_of_an_output_stays() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["y"], ["y@v"])]
    made = model(nodes, {"w": weights(8, 8)}, {"x": [1, 8]}, {"y": None, "y@v": None})
    graph = graph_of(made)
    before = graph.model.SerializeToString(deterministic=True)
    with pytest.raises(Skip, match="'y@v'"):
        Svd(2).apply(graph, next(graph.sites()), Stats())
    assert graph.model.SerializeToString(deterministic=True) == before


def conv3() -> onnx.ModelProto:
    return one_node("Conv", weights(1, 4, 9, 9), weights(8, 4, 3, 3))


def with_nan() -> onnx.ModelProto:
    made = conv3()
    poisoned = numpy_helper.to_array(made.graph.initializer[0]).copy()
    poisoned[0, 0, 0, 0] = np.nan
    made.graph.initializer[0].CopyFrom(numpy_helper.from_array(poisoned, "w"))
    return made


def used_otherwise() -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"]), helper.make_node("Relu", ["w"], ["z"])]
    return model(nodes, {"w": weights(8, 8)}, {"x": [1, 8]}, {"y": None, "z": None})


def different_groups() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["y"], group=2),
        helper.make_node("Conv", ["b", "w"], ["z"]),
    ]
    return model(nodes, {"w": weights(8, 4, 3, 3)}, {"a": [1, 8, 9, 9], "b": [1, 4, 9, 9]}, {"y": None, "z": None})


def behind_unknown() -> onnx.ModelProto:
    nodes = [helper.make_node("Flatten", ["x"], ["f"]), helper.make_node("MatMul", ["f", "w"], ["y"])]
    return model(nodes, {"w": weights(12, 8)}, {"x": ["n", 3, "h", "w_"]}, {"y": None})


@pytest.mark.parametrize(
    ("made", "path", "decision", "reason"),
    [
        (conv3(), "w", Svd(9), "rank is 9, but the weight has no more than 8"),
        (conv3(), "w", Tucker(5, 8), "in is 5, but the weight has no more than 4"),
        (conv3(), "w", Tucker(4, 9), "out is 9"),
        (one_node("Conv", weights(1, 4, 9, 9), weights(8, 4, 1, 3)), "w", Tucker(1, 4), "out is 4, but .* than 3"),
        (conv3(), "w", Spatial(13), "rank is 13"),
        (one_node("Conv", weights(1, 4, 9), weights(8, 4, 3)), "w", Spatial(2), "two or more dimensions"),
        (one_node("MatMul", weights(1, 8), weights(8, 8)), "w", Tucker(2, 2), "behind a Flatten"),
        (behind_unknown(), "w", Tucker(2, 2), "shape is known"),
        (one_node("ConvTranspose", weights(1, 4, 9, 9), weights(4, 8, 3, 3)), "w", Svd(2), "convolutions only"),
        (lstm(), "W", Svd(2), "matrix products only"),
        (branches(), "w", Svd(2), "outside branches"),
        (used_otherwise(), "w", Svd(2), "only"),
        (different_groups(), "w", Svd(2), "different groups"),
        (with_nan(), "w", Svd(2), "infinities or NaNs"),
    ],
)
def test_what_cannot_be_factorised_stays_with_a_reason(
    made: onnx.ModelProto, path: str, decision: Structural, reason: str
) -> None:
    graph = graph_of(made)
    site = next(site for site in graph.sites() if site.path == path)
    before = graph.model.SerializeToString(deterministic=True)
    with pytest.raises(Skip, match=reason):
        decision.apply(graph, site, Stats())
    assert graph.model.SerializeToString(deterministic=True) == before


FEEDS = {"branches": [5, 16], "zipmap": [5, 64], "lstm": [4, 1, 16], "constant_nodes": [5, 16], "old_inputs": [1, 64]}
FEEDS |= {"mlp": [5, 64], "cnn": [2, 3, 16, 16], "cnn_norm": [2, 3, 16, 16]}


@pytest.mark.parametrize("decision", [Svd(2), Tucker(2, 2), Spatial(2)], ids=lambda decision: str(decision.step()))
@pytest.mark.parametrize("name", ALL)
def test_every_model_is_left_as_it_was_or_runs(name: str, decision: Structural) -> None:
    done = 0
    for site in graph_of(ALL[name]()).sites():
        exported = []
        for _ in range(2):
            graph = graph_of(ALL[name]())
            before = graph.model.SerializeToString(deterministic=True)
            try:
                parts = decision.apply(graph, site, Stats())
            except Skip as skip:
                assert str(skip)
                assert graph.model.SerializeToString(deterministic=True) == before
                break
            assert all(part.path.startswith(f"{site.path}@") for part in parts)
            plan = Plan("", {part.path: Step("uniform", (("error", 0.01),)) for part in parts})
            events = execute_plan(graph, plan, Statistics(None, {}, {}))
            assert [event.path for event in events] == [part.path for part in parts]
            run(graph.model, {"x": weights(*FEEDS[name])})
            exported.append(graph.export()[0].SerializeToString(deterministic=True))
            done += 1
        assert len(set(exported)) <= 1
    assert done or name in ("branches", "lstm", "constant_nodes") or not isinstance(decision, Svd)
