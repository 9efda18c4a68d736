"""Low-rank passes: at full rank the model computes the same function."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import onnx
import pytest
from builders import FLOAT, model, weights
from factoring import (
    Array,
    assert_same,
    convolutions,
    correlated,
    factored,
    graph_of,
    one_node,
    run,
    shapes,
    statistics,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxopt.calibration.stats import Stats
from onnxopt.passes import STRUCTURAL, Skip, Structural
from onnxopt.passes.low_rank.spatial import Spatial
from onnxopt.passes.low_rank.svd import Svd
from onnxopt.passes.low_rank.tucker import Tucker
from onnxopt.spec.plan import Step

# ---- convolutions --------------------------------------------------------------------------------------------------


@settings(max_examples=120)
@given(convolutions())
@pytest.mark.slow
def test_convolution_at_full_rank(drawn: tuple[onnx.ModelProto, Array, int]) -> None:
    made, x, groups = drawn
    outputs, inputs, *kernel = made.graph.initializer[0].dims
    outputs //= groups
    ones = (1,) * len(kernel)
    rank = min(outputs, inputs * prod(kernel))
    graph = factored(made, Svd(rank))
    assert shapes(graph) == {"v": (groups * rank, inputs, *kernel), "u": (groups * outputs, rank, *ones)}
    assert_same(made, graph, {"x": x})
    rank_in, rank_out = min(inputs, outputs * prod(kernel)), min(outputs, inputs * prod(kernel))
    graph = factored(made, Tucker(rank_in, rank_out))
    assert shapes(graph) == {
        "in": (groups * rank_in, inputs, *ones),
        "core": (groups * rank_out, rank_in, *kernel),
        "out": (groups * outputs, rank_out, *ones),
    }
    assert_same(made, graph, {"x": x})


@settings(max_examples=80)
@given(convolutions(least_rank=2))
def test_spatial_at_full_rank(drawn: tuple[onnx.ModelProto, Array, int]) -> None:
    made, x, groups = drawn
    outputs, inputs, rows, *rest = made.graph.initializer[0].dims
    rank = min(inputs * rows, outputs // groups * prod(rest))
    graph = factored(made, Spatial(rank))
    assert shapes(graph) == {
        "v": (groups * rank, inputs, rows, *(1 for _ in rest)),
        "h": (outputs, rank, 1, *rest),
    }
    assert_same(made, graph, {"x": x})


# ---- matrix products -----------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    index=st.integers(0, 1),
    trans_a=st.integers(0, 1),
    trans_b=st.integers(0, 1),
    scales=st.tuples(st.sampled_from([1.0, 0.5, -2.0]), st.sampled_from([1.0, 3.0])),
    sizes=st.tuples(st.integers(1, 4), st.integers(3, 9), st.integers(6, 9)),
    bias=st.sampled_from([None, "scalar", "columns", "rows", "all"]),
)
def test_gemm_at_full_rank(
    index: int, trans_a: int, trans_b: int, scales: tuple[float, float], sizes: tuple[int, int, int], bias: str | None
) -> None:
    few, inputs, outputs = sizes
    rows, columns = (outputs, few) if index == 0 else (few, outputs)
    a = weights(*((inputs, rows) if trans_a else (rows, inputs)), seed=1)
    b = weights(*((columns, inputs) if trans_b else (inputs, columns)), seed=2)
    x, w = (b, a) if index == 0 else (a, b)
    forms = {"scalar": (), "columns": (columns,), "rows": (rows, 1), "all": (rows, columns)}
    more = [] if bias is None else [weights(*forms[bias], seed=3)]
    made = one_node("Gemm", x, w, *more, index=index, transA=trans_a, transB=trans_b, alpha=scales[0], beta=scales[1])
    rank = min(inputs, outputs)
    graph = factored(made, Svd(rank))
    turned = (trans_b if index else trans_a) != (index == 0)  # the tensor is W[outputs, inputs]
    u, v = (outputs, rank), (rank, inputs)
    assert shapes(graph) == {"u": u if turned else u[::-1], "v": v if turned else v[::-1]}
    assert_same(made, graph, {"x": x})


@settings(max_examples=60)
@given(
    index=st.integers(0, 1),
    batch=st.lists(st.integers(1, 3), max_size=2),
    weight_batch=st.sampled_from(["none", "ones", "same"]),
    vector=st.booleans(),
    sizes=st.tuples(st.integers(3, 9), st.integers(6, 9)),
)
def test_matmul_at_full_rank(
    index: int, batch: list[int], weight_batch: str, vector: bool, sizes: tuple[int, int]
) -> None:
    inputs, outputs = sizes
    x = weights(*([] if vector else [*batch, *((5, inputs) if index else (inputs, 5))]), *([inputs] if vector else []))
    leading = {"none": [], "ones": [1] * len(batch), "same": batch}[weight_batch]
    w = weights(*leading, *((inputs, outputs) if index else (outputs, inputs)), seed=1)
    made = one_node("MatMul", x, w, index=index)
    if vector and w.ndim > 2:
        with pytest.raises(Skip, match="may meet a vector"):
            factored(made, Svd(2))
        return
    graph = factored(made, Svd(min(inputs, outputs)))
    assert_same(made, graph, {"x": x})


# ---- a matrix product that is a convolution ------------------------------------------------------------------------


@pytest.mark.parametrize("through", ["Flatten", "Reshape"])
@pytest.mark.parametrize("op", ["Gemm", "Gemm transposed", "MatMul"])
@pytest.mark.parametrize("size", [(3, 2), (5,), (2, 3, 2)])
def test_tucker_bypasses_a_flatten(through: str, op: str, size: tuple[int, ...]) -> None:
    channels, inputs = 4, 4 * prod(size)
    w = weights(6, inputs) if op == "Gemm transposed" else weights(inputs, 6)
    constants: dict[str, Array] = {"w": w, "b": weights(6, seed=3)}
    if through == "Reshape":
        constants["shape"] = np.array([0, -1])
    flat = helper.make_node(through, ["h", "shape"] if through == "Reshape" else ["h"], ["f"], "flat")
    if op == "MatMul":
        layer = [helper.make_node("MatMul", ["f", "w"], ["m"], "mm"), helper.make_node("Add", ["m", "b"], ["y"])]
    else:
        layer = [
            helper.make_node("Gemm", ["f", "w", "b"], ["y"], "fc", alpha=0.5, beta=2.0, transB=int(w.shape[0] == 6))
        ]
    made = model([helper.make_node("Relu", ["x"], ["h"]), flat, *layer], constants,
                 {"x": ["n", channels, *size]}, {"y": ["n", 6]})  # fmt: skip
    graph = factored(made, Tucker(channels, 6))
    ones = (1,) * len(size)
    assert shapes(graph) == {"in": (4, 4, *ones), "core": (6, 4, *size), "out": (6, 6)}
    assert_same(made, graph, {"x": weights(3, channels, *size, seed=5)})
    assert "flat" not in {node.name for node in graph.model.graph.node}  # nothing else reads it
    graph = factored(made, Tucker(2, 3))
    assert shapes(graph) == {"in": (2, 4, *ones), "core": (3, 2, *size), "out": (6, 3) if w.shape[0] == 6 else (3, 6)}
    run(graph.model, {"x": weights(3, channels, *size)})


def test_a_flatten_that_others_read_stays() -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["f"], "flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], "fc"),
        helper.make_node("Relu", ["f"], ["z"], "relu"),
    ]
    made = model(nodes, {"w": weights(12, 6)}, {"x": ["n", 3, 2, 2]}, {"y": None, "z": None})
    assert_same(made, factored(made, Tucker(3, 6)), {"x": weights(2, 3, 2, 2)})


# ---- below full rank -----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(rank=st.integers(1, 12), sizes=st.tuples(st.integers(12, 20), st.integers(12, 30)), seed=st.integers(0, 99))
def test_truncated_svd_errs_by_the_tail_of_the_spectrum(rank: int, sizes: tuple[int, int], seed: int) -> None:
    inputs, outputs = sizes
    x, w = np.eye(inputs, dtype=np.float32), weights(inputs, outputs, seed=seed)
    made = one_node("MatMul", x, w)
    (got,) = run(factored(made, Svd(rank)).model, {"x": x})
    spectrum = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    assert np.linalg.norm(got - w) == pytest.approx(np.linalg.norm(spectrum[rank:]), rel=1e-4, abs=1e-5)


LAYERS = {
    "conv": ("Conv", (40, 6, 7, 7), (8, 6, 3, 3), {"pads": [1, 1, 1, 1]}, [Svd(3), Tucker(3, 5), Spatial(4)]),
    "groups": ("Conv", (60, 8, 7, 7), (8, 4, 3, 3), {"group": 2}, [Svd(2), Tucker(2, 3), Spatial(3)]),
    "1x1": ("Conv", (20, 12, 5, 5), (8, 12, 1, 1), {}, [Svd(4)]),
    "gemm": ("Gemm", (600, 12), (9, 12), {"transB": 1}, [Svd(4)]),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("layer", LAYERS)
def test_with_statistics_outputs_err_less(layer: str, bias: bool) -> None:
    op, x_shape, w_shape, attributes, decisions = LAYERS[layer]
    x = correlated(x_shape, 1)
    made = one_node(op, x, weights(*w_shape), *([weights(w_shape[0], seed=2)] if bias else []), **attributes)
    stats = statistics(graph_of(made), "w", x)
    (wanted,) = run(made, {"x": x})
    for decision in decisions:
        plain, aware = (
            np.linalg.norm(run(factored(made, decision, stats=known).model, {"x": x})[0] - wanted)
            for known in (None, stats)
        )
        assert aware < 0.93 * plain, decision
    full = Svd(min(w_shape[0] // attributes.get("group", 1), prod(w_shape[1:])))
    assert_same(made, factored(made, full, stats=stats), {"x": x})


def test_svd_with_statistics_is_optimal() -> None:
    """Its outputs err by the tail of the outputs' own spectrum, which no matrix of that rank can undercut."""
    x, w = correlated((500, 10), 3), weights(10, 14)
    made = one_node("MatMul", x, w)
    stats = statistics(graph_of(made), "w", x)
    y = x.astype(np.float64) @ w
    for rank in (1, 3, 6):
        (got,) = run(factored(made, Svd(rank), stats=stats).model, {"x": x})
        best = np.linalg.norm(np.linalg.svd(y, compute_uv=False)[rank:])
        assert best * (1 - 1e-4) <= np.linalg.norm(got - y) <= best * 1.001


def test_the_bias_corrects_the_mean_error() -> None:
    x = correlated((400, 10), 5)
    made = one_node("Gemm", x, weights(10, 8), weights(8, seed=1))
    graph = factored(made, Svd(2), stats=statistics(graph_of(made), "w", x))
    graph.reset()
    (wanted,), (got,) = run(made, {"x": x}), run(graph.model, {"x": x})
    assert np.abs((got - wanted).mean(0)).max() < 1e-4 * np.abs(wanted).max()


def test_a_shared_weight_leaves_biases_alone() -> None:
    """What its inputs are on average at each of its nodes is not known."""
    nodes = [
        helper.make_node("Gemm", ["x", "w", "b"], ["h"], "first"),
        helper.make_node("Gemm", ["h", "w", "c"], ["y"], "second"),
    ]
    x, tensors = correlated((400, 10), 5), {"w": weights(10, 10), "b": weights(10, seed=1), "c": weights(10, seed=2)}
    made = model(nodes, tensors, {"x": x.shape}, {"y": None})
    only = model(nodes[:1], tensors, {"x": x.shape}, {"h": None})
    graph = factored(made, Svd(2), stats=statistics(graph_of(only), "w", x))
    assert np.array_equal(graph.values("b"), tensors["b"])


# ---- decisions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["svd{rank=8}", "tucker{in=40,out=56}", "spatial{rank=3}"])
def test_step_text_gives_the_pass_back(text: str) -> None:
    step = Step.parse(text)
    assert str(STRUCTURAL[step.name].from_step(step).step()) == text


@pytest.mark.parametrize("cls", STRUCTURAL.values(), ids=STRUCTURAL)
def test_the_space_holds_fewer_weights_and_can_be_applied(cls: type[Structural]) -> None:
    x = correlated((20, 12, 7, 7), 1)
    made = one_node("Conv", x, weights(16, 6, 3, 3), group=2)
    graph = graph_of(made)
    (site,) = graph.sites()
    decisions = list(cls.space(site, statistics(graph, "w", x)))
    sizes = [sum(map(prod, shapes(factored(made, decision)).values())) for decision in decisions]
    assert sizes
    assert sizes == sorted(sizes)
    assert sizes[-1] < site.elements
    assert list(cls.space(site, Stats())) == []  # nothing is known of its groups


@pytest.mark.parametrize("rank", [0, -1, 2.5, True, "all"])
def test_ranks_are_whole_numbers_above_zero(rank: Any) -> None:
    with pytest.raises(ValueError, match="expected a whole number above 0"):
        Svd(rank)
    with pytest.raises(ValueError, match="in is"):
        Tucker(rank, 1)


def test_values_of_every_type_are_known_to_shapes() -> None:
    """A model with an input of another type than a tensor of floats is looked through, too."""
    nodes = [
        helper.make_node("Gather", ["table", "i"], ["e"], axis=0),
        helper.make_node("Flatten", ["e"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["y"]),
    ]
    made = model(nodes, {"table": weights(9, 3, 2, 2), "w": weights(12, 8)}, {}, {"y": None})
    made.graph.input.append(helper.make_tensor_value_info("i", onnx.TensorProto.INT64, ["n"]))
    assert made.graph.output[0].type.tensor_type.elem_type == FLOAT
    assert_same(made, factored(made, Tucker(3, 8)), {"i": np.array([1, 5])})
