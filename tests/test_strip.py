"""A stripped model computes the same bits and keeps its public names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import ALL, FLOAT, branches, cnn, model, weights, zipmap
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt import decompress, optimize, verify
from onnxopt.data import quiet_session
from onnxopt.graph import Graph, normalise, split, strip
from onnxopt.graph.normalise import subgraphs


def loop() -> onnx.ModelProto:
    """A loop body that reads values and constants of the main graph, and an If inside it that reads both's."""
    branch = [
        helper.make_graph([helper.make_node(op, ["now", "one"], [f"{op}.y"])], op, [], [_value(f"{op}.y")])
        for op in ("Add", "Mul")
    ]
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "also one"], ["now"]),
            helper.make_node("If", ["go"], ["next"], then_branch=branch[0], else_branch=branch[1]),
            helper.make_node("Identity", ["go"], ["go on"]),
        ],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), _value("go", TensorProto.BOOL), _value("state")],
        [_value("go on", TensorProto.BOOL), _value("next")],
    )
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "a node's name", doc_string="what it does"),
        helper.make_node("Loop", ["times", "", "h"], ["last"], body=body),
        helper.make_node("Add", ["last", "also one"], ["y"]),
    ]
    tensors = {"w": weights(8, 8), "times": np.int64(3), "one": np.float32(1), "also one": np.float32(1)}
    return model(nodes, tensors, {"x": [1, 8]}, {"y": [1, 8]})


def _value(name: str, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [] if kind == TensorProto.BOOL else None)


def stripped(source: onnx.ModelProto) -> onnx.ModelProto:
    """As `optimize` does it, but that no weight is stored elsewhere."""
    work = onnx.ModelProto()
    work.CopyFrom(source)
    normalise(work)
    return strip(Graph(split(work)[0]).model, source)


def outputs(source: onnx.ModelProto, names: list[str] | None = None) -> list[bytes]:
    session = quiet_session(source.SerializeToString())
    shape = [size if isinstance(size, int) else 2 for size in session.get_inputs()[0].shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return [np.asarray(y).tobytes() for y in session.run(names, {session.get_inputs()[0].name: x})]


@pytest.mark.parametrize("name", [*(name for name in ALL if name != "zipmap"), "loop"])
def test_the_same_bits(name: str) -> None:
    source = loop() if name == "loop" else ALL[name]()
    small = stripped(source)
    onnx.checker.check_model(small, full_check=True)
    assert small.ByteSize() < source.ByteSize()
    assert outputs(small) == outputs(source)


@given(st.lists(st.text("abcAB/é", min_size=1, max_size=2), min_size=7, max_size=7, unique=True))
@settings(max_examples=60)
def test_whatever_values_are_called(names: list[str]) -> None:
    x, w, h, v, a, b, y = names
    nodes = [helper.make_node(op, inputs, [out]) for op, inputs, out in (
        ("MatMul", [x, w], h), ("Add", [h, v], a), ("Sub", [a, h], b), ("Mul", [b, v], y))]  # fmt: skip
    source = model(nodes, {w: weights(8, 8), v: weights(8)}, {x: [1, 8]}, {y: [1, 8], h: [1, 8]})
    assert outputs(stripped(source), [y, h]) == outputs(source, [y, h])


def test_stored_weights_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(cnn(), source)
    result = optimize(source, small)
    graph = decompress(small).graph
    kept = {t.name for t in graph.initializer} | {value.name for value in (*graph.input, *graph.output)}
    assert set(result.plan.steps) == {"w1", "b1", "w2", "w3"}
    assert kept == {"x", "y", "w1", "b1", "w2", "w3"}


def test_what_says_nothing_is_gone() -> None:
    source = loop()
    for graph in subgraphs(source.graph):
        graph.doc_string = "SECRET"
        for node in graph.node:
            node.name = node.doc_string = "SECRET"
            node.metadata_props.add(key="SECRET", value="SECRET")
        for value in (*graph.input, *graph.output):
            value.doc_string = "SECRET"
        for tensor in graph.initializer:
            tensor.doc_string = "SECRET"
    source.metadata_props.add(key="SECRET", value="SECRET")
    assert b"SECRET" in source.SerializeToString()
    assert b"SECRET" not in stripped(source).SerializeToString()


def test_equal_constants_become_one() -> None:
    small = stripped(loop())
    scalars = [t for t in small.graph.initializer if not t.dims]
    assert sorted(numpy_helper.to_array(t).item() for t in scalars) == [1, 3]


def test_only_the_specifications_own_values_need_not_be_there() -> None:
    tensors = {"w": weights(8, 8), "c": weights(8)}
    said = {"alpha": 1.0, "beta": 0.5, "transA": 0, "transB": 1}
    source = model([helper.make_node("Gemm", ["x", "w", "c"], ["y"], **said)], tensors, {"x": [2, 8]}, {"y": [2, 8]})
    (gemm,) = stripped(source).graph.node
    assert {attribute.name for attribute in gemm.attribute} == {"beta", "transB"}
    source.graph.node[0].domain = "com.example"
    (foreign,) = stripped(source).graph.node
    assert {attribute.name for attribute in foreign.attribute} == set(said)


def test_new_names_do_not_meet_those_outside(tmp_path: Path) -> None:
    """A value that only the outer graph knows is called what the inner one's first value would be."""
    wanted = zipmap()
    wanted.graph.node[0].output[0] = "raw"
    wanted.graph.node.insert(1, helper.make_node("Softmax", ["raw"], ["scores"]))
    wanted.graph.node[2].output[0] = wanted.graph.output[1].name = "a"
    source, small = tmp_path / "m.onnx", tmp_path / "small.onnx"
    onnx.save(wanted, source)
    optimize(source, small)
    plain = decompress(small)
    values = [name for node in plain.graph.node for name in node.output]
    assert len(set(values)) == len(values)
    assert verify(small).identical_outputs


def test_branches_may_use_a_name_twice() -> None:
    source = branches()
    for attribute in source.graph.node[2].attribute:
        graph = attribute.g
        graph.node[-1].output[0] = "twice"
        graph.node.append(helper.make_node("Relu", ["twice"], [graph.output[0].name]))
    assert outputs(stripped(source)) == outputs(source)
