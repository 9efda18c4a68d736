"""Products read copies of their own of values that are rounded for them alone."""

from __future__ import annotations

import numpy as np
from builders import weights
from differences import build, node, session

from onnxopt.graph import fused_ops, own_copies

WEIGHTS = {"w": weights(8, 8), "v": weights(8, 8, seed=1), "scale": np.ones(8, np.float32)}
X = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)


def test_products_beside_a_sum_read_a_copy() -> None:
    nodes = [
        node("LayerNormalization", ["x", "scale"], ["n"]),
        node("MatMul", ["n", "w"], ["a"]),
        node("MatMul", ["n", "v"], ["b"]),
        node("Add", ["a", "b"], ["c"]),
        node("Add", ["c", "n"], ["y"]),
    ]
    model = build(nodes, ["k", 8], WEIGHTS)
    changed, copies = own_copies(model, fused_ops(model))
    assert copies == {"n": "n@own"}
    reads = {one.output[0]: list(one.input) for one in changed.graph.node}
    assert reads == {"n": ["x", "scale"], "n@own": ["n"], "a": ["n@own", "w"], "b": ["n@own", "v"], "c": ["a", "b"],
                     "y": ["c", "n"]}  # fmt: skip
    assert [one.op_type for one in model.graph.node].count("Identity") == 0
    before, after = (session(one).run(None, {"x": X})[0] for one in (model, changed))
    assert np.array_equal(before, after)


def test_values_that_integer_nodes_may_make_have_none() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["n"]),
        node("MatMul", ["n", "v"], ["b"]),
        node("Add", ["b", "n"], ["y"]),
    ]
    model = build(nodes, ["k", 8], WEIGHTS)
    assert own_copies(model, fused_ops(model)) == (model, {})


def test_values_that_products_alone_read_have_none() -> None:
    nodes = [
        node("LayerNormalization", ["x", "scale"], ["n"]),
        node("MatMul", ["n", "w"], ["a"]),
        node("MatMul", ["n", "v"], ["b"]),
        node("Add", ["a", "b"], ["y"]),
    ]
    model = build(nodes, ["k", 8], WEIGHTS)
    assert own_copies(model, fused_ops(model)) == (model, {})
