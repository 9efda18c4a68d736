"""Weights as matrices: the products of `Linear` are the outputs of the operator."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from onnxopt.data import quiet_session
from onnxopt.graph import Graph, Linear

Array = np.ndarray[Any, Any]
EVERYTHING = 10**9
small = st.integers(1, 3)


def linear_of(made: onnx.ModelProto, path: str = "w") -> Linear:
    (linear,) = Graph(made).linears()[path]
    return linear


def products(linear: Linear, w: Array, x: Array) -> Array:
    """[vectors, groups x outputs]"""
    rows = linear.inputs(x, EVERYTHING, np.random.default_rng(0))
    matrix = linear.matrix(w)
    assert rows.shape == (len(matrix), rows.shape[1], matrix.shape[2])
    found = rows @ matrix.swapaxes(1, 2)
    return found.transpose(1, 0, 2).reshape(rows.shape[1], -1)


def check(made: onnx.ModelProto, x: Array, y: str = "y", path: str = "w") -> None:
    """The outputs of `y`, channel by channel, are the matrix times the inputs, in some order."""
    w = onnx.numpy_helper.to_array(next(t for t in made.graph.initializer if t.name == path))
    linear = linear_of(made, path)
    assert linear.y == y
    back = linear.tensor(linear.matrix(w))
    assert back.shape == w.shape
    assert np.array_equal(back, w)
    found = products(linear, w, x)
    expose = onnx.ModelProto()
    expose.CopyFrom(made)
    expose.graph.output.add(name=y)
    wanted = quiet_session((made if y == "y" else expose).SerializeToString()).run([y], {"x": x})[0]
    wanted = np.moveaxis(wanted, linear.channel_axis, -1)
    if found.shape[1] != wanted.shape[-1]:  # a batch of weights: the outputs of all of them lie on one axis
        found = found.reshape(-1, wanted.shape[-1])
    wanted = wanted.reshape(-1, wanted.shape[-1])
    np.testing.assert_allclose(np.sort(found, 0), np.sort(wanted, 0), rtol=1e-4, atol=1e-4)
    few = linear.inputs(x, 2, np.random.default_rng(0))
    every = linear.inputs(x, EVERYTHING, np.random.default_rng(0))
    assert few.shape[1] == min(2, every.shape[1])
    for group, vectors in zip(every, few, strict=True):
        assert {row.tobytes() for row in vectors} <= {row.tobytes() for row in group}


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_fused_product(index: int, turned: bool, transposed: bool) -> None:
    """The runtime's, where either side may be transposed."""
    w, x = ((3, 4), (4, 5)) if index == 0 else ((4, 5), (3, 4))
    w, x = w[::-1] if transposed else w, (2, *(x[::-1] if turned else x))
    names = ["transA", "transB"] if index == 0 else ["transB", "transA"]
    flags = dict(zip(names, (transposed, turned), strict=True))
    inputs = ["w", "x"] if index == 0 else ["x", "w"]
    node = helper.make_node("FusedMatMul", inputs, ["y"], domain="com.microsoft", **flags)
    made = model([node], {"w": weights(*w)}, {"x": x}, {"y": [None] * 3})  # type: ignore[list-item]
    made.opset_import.add(domain="com.microsoft", version=1)
    check(made, weights(*x, seed=1))


@given(rank=small, groups=small, inputs=small, outputs=small, seed=st.integers(0, 99), draw=st.data())
@settings(max_examples=60)
@pytest.mark.parametrize("auto_pad", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
def test_conv(auto_pad: str, rank: int, groups: int, inputs: int, outputs: int, seed: int, draw: st.DataObject) -> None:
    sizes = st.lists(small, min_size=rank, max_size=rank)
    kernel, strides, dilations = draw.draw(sizes), draw.draw(sizes), draw.draw(sizes)
    if auto_pad.startswith("SAME"):
        dilations = [1] * rank  # the runtime takes no others
    attributes: dict[str, Any] = {"group": groups, "strides": strides, "dilations": dilations, "auto_pad": auto_pad}
    if auto_pad == "NOTSET":
        attributes["pads"] = [draw.draw(st.integers(0, 2)) for _ in range(2 * rank)]
    side = [(k - 1) * d + 1 + draw.draw(st.integers(0, 4)) for k, d in zip(kernel, dilations, strict=True)]
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    tensors = {"w": weights(groups * outputs, inputs, *kernel, seed=seed)}
    shape = (2, groups * inputs, *side)
    made = model([node], tensors, {"x": shape}, {"y": [None] * (rank + 2)})  # type: ignore[list-item]
    check(made, weights(*shape, seed=seed + 1))


@given(rank=small, groups=small, inputs=small, outputs=small, seed=st.integers(0, 99), draw=st.data())
@settings(max_examples=60)
def test_conv_transpose(rank: int, groups: int, inputs: int, outputs: int, seed: int, draw: st.DataObject) -> None:
    sizes = st.lists(small, min_size=rank, max_size=rank)
    kernel, strides, dilations = draw.draw(sizes), draw.draw(sizes), draw.draw(sizes)
    reach = [(k - 1) * d for k, d in zip(kernel, dilations, strict=True)]
    pads = [draw.draw(st.integers(0, min(2, r))) for r in reach * 2]
    extra = [draw.draw(st.integers(0, s - 1)) for s in strides]
    side = [2 + draw.draw(st.integers(0, 3)) for _ in kernel]
    attributes = {"group": groups, "strides": strides, "dilations": dilations, "pads": pads, "output_padding": extra}
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], **attributes)
    tensors = {"w": weights(groups * inputs, outputs, *kernel, seed=seed)}
    shape = (2, groups * inputs, *side)
    if any((n - 1) * s + r + 1 + e - b - t < 1 for n, s, r, e, b, t in
           zip(side, strides, reach, extra, pads[:rank], pads[rank:], strict=True)):  # fmt: skip
        return
    made = model([node], tensors, {"x": shape}, {"y": [None] * (rank + 2)})  # type: ignore[list-item]
    check(made, weights(*shape, seed=seed + 1))


@given(
    rows=st.integers(1, 5), inputs=st.integers(1, 5), outputs=st.integers(1, 5), flags=st.tuples(*[st.booleans()] * 3)
)
def test_gemm(rows: int, inputs: int, outputs: int, flags: tuple[bool, bool, bool]) -> None:
    """The weight on either side, any of the two transposed."""
    trans_a, trans_b, left = flags
    a, b = ((inputs, rows) if trans_a else (rows, inputs)), ((outputs, inputs) if trans_b else (inputs, outputs))
    node = helper.make_node("Gemm", ["w", "x"] if left else ["x", "w"], ["y"], transA=trans_a, transB=trans_b)
    of_w, of_x = (a, b) if left else (b, a)
    check(model([node], {"w": weights(*of_w)}, {"x": of_x}, {"y": [rows, outputs]}), weights(*of_x, seed=1))


@given(
    rows=st.integers(1, 4), inputs=st.integers(1, 4), outputs=st.integers(1, 4), left=st.booleans(),
    batches=st.sampled_from([
        ((), ()), ((), (3,)), ((), (2, 3)), ((3,), ()), ((3,), (3,)), ((3,), (1,)), ((3,), (2, 3)), ((2, 3), (3,)),
        ((1, 3), (2, 1)), ((2, 1), (2, 3)), ((1,), (3,)), ((2, 1), ()),
    ]),
)  # fmt: skip
@settings(max_examples=200)
def test_matmul(rows: int, inputs: int, outputs: int, left: bool, batches: tuple[tuple[int, ...], ...]) -> None:
    a, b = (rows, inputs), (inputs, outputs)
    of_w, of_x = ((*batches[0], *(a if left else b)), (*batches[1], *(b if left else a)))
    node = helper.make_node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"])
    rank = max(map(len, batches)) + 2
    made = model([node], {"w": weights(*of_w)}, {"x": of_x}, {"y": [None] * rank})  # type: ignore[list-item]
    check(made, weights(*of_x, seed=1))


def test_a_vector_times_a_matrix() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    made = model([node], {"w": weights(5, 4)}, {"x": [5]}, {"y": [4]})
    check(made, weights(5, seed=1))


def with_bias(bias: Array, *more: onnx.NodeProto, swapped: bool = False) -> onnx.ModelProto:
    """x[n, 6] -> MatMul -> Add -> y[n, 4]"""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"])]
    nodes.append(helper.make_node("Add", ["b", "h"] if swapped else ["h", "b"], ["y"]))
    return model([*nodes, *more], {"w": weights(6, 4), "b": bias}, {"x": ["n", 6]}, {"y": ["n", 4]})


@pytest.mark.parametrize("swapped", [False, True])
def test_the_bias_after_a_matmul_is_its_own(swapped: bool) -> None:
    made = with_bias(weights(4, seed=1), swapped=swapped)
    assert linear_of(made).bias == "b"
    check(made, weights(7, 6, seed=2), y="h")


@pytest.mark.parametrize(
    ("bias", "more"),
    [
        (weights(1), []),  # cannot take up what differs from output to output
        (weights(1, 4), []),
        (weights(4).astype(np.float32), [helper.make_node("Mul", ["y", "b"], ["z"])]),  # somebody else's too
        (weights(4), [helper.make_node("Relu", ["h"], ["z"])]),  # the product is used without it
    ],
)
def test_a_bias_that_cannot_take_up_errors_is_none(bias: Array, more: list[onnx.NodeProto]) -> None:
    assert linear_of(with_bias(bias, *more)).bias is None


def test_a_product_that_is_an_output_too_has_no_bias() -> None:
    made = with_bias(weights(4))
    made.graph.output.add(name="h")
    assert linear_of(made).bias is None


@pytest.mark.parametrize(("c", "own"), [((4,), True), ((1,), False), ((1, 4), False)])
def test_the_bias_of_a_gemm(c: tuple[int, ...], own: bool) -> None:
    node = helper.make_node("Gemm", ["x", "w", "b"], ["y"])
    made = model([node], {"w": weights(6, 4), "b": weights(*c)}, {"x": ["n", 6]}, {"y": ["n", 4]})
    assert linear_of(made).bias == ("b" if own else None)


def test_weights_of_other_operators_and_of_branches_are_not_linear() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Mul", ["h", "w"], ["y"]),
    ]
    assert not Graph(model(nodes, {"w": weights(4, 4)}, {"x": [4, 4]}, {"y": [4, 4]})).linears()


def test_a_shared_weight_has_all_its_uses() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"], transB=1)]
    made = model(nodes, {"w": weights(4, 4)}, {"x": ["n", 4]}, {"y": ["n", 4]})
    assert [linear.x for linear in Graph(made).linears()["w"]] == ["x", "h"]
