"""INT8 nodes: what they compute, and that ONNX Runtime runs them with INT8 kernels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import model, residual, weights
from factoring import graph_of
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from onnxopt.data import quiet_session
from onnxopt.encoding import Affine
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, QdqSupport, QuantParams, embed, fused_ops, settings, with_fake_quant
from onnxopt.spec.plan import Step

Array = np.ndarray[Any, Any]


X = np.random.default_rng(0).standard_normal((4, 8, 12, 12)).astype(np.float32)


def grid(w: Array, axis: int) -> Affine:
    """Of 8 bits at most."""
    others = tuple(i for i in range(w.ndim) if i != axis)
    k = np.ceil(np.log2(np.abs(w).max(others) / 127) * 4).astype(np.int16)
    shape = [-1 if i == axis else 1 for i in range(w.ndim)]
    return Affine(np.rint(w / 2.0 ** (k.reshape(shape) / 4)).astype(np.int32), k, axis, np.dtype("float32"))


def values(made: onnx.ModelProto, names: list[str], x: Array) -> dict[str, Array]:
    copy = onnx.ModelProto()
    copy.CopyFrom(made)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return dict(zip(names, quiet_session(copy.SerializeToString()).run(names, {"x": x}), strict=True))


def in_integers(
    made: onnx.ModelProto, x: Array, kind: str = "uint8", floats: tuple[str, ...] = ()
) -> tuple[onnx.ModelProto, Graph]:
    """All units that can, but those called `floats`, run in integers; a plain model."""
    graph = graph_of(made)
    every = fused_ops(graph.model)
    wanted = [unit for unit in every if unit.kind is not QdqSupport.NONE and unit.name not in floats]
    names = list(dict.fromkeys(name for unit in wanted for name in (*unit.inputs, unit.output)))
    names = [name for name in names if name not in {v.name for v in graph.model.graph.output}]
    seen = values(graph.model, [name for name in names if name != "x"], x) | {"x": x}
    for unit in every:
        if unit.kind is QdqSupport.PASSTHROUGH:
            seen[unit.output] = seen[unit.inputs[0]]
    for name in names:
        graph.pair(name, QuantParams.over(min(0.0, float(seen[name].min())), max(0.0, float(seen[name].max())), kind))
    for unit in wanted:
        if unit.weight is not None:
            axis = next(site.axis for site in graph.sites() if site.path == unit.weight)
            graph.store(unit.weight, grid(graph.values(unit.weight), axis or 0))
            graph.keep_integers(unit.weight)
    inner, encodings = graph.export()
    embed(inner, {name: weight.values() for name, weight in encodings.items()})
    onnx.checker.check_model(inner, full_check=True)
    return inner, graph


def kernels(made: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Of the graph that the runtime runs."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def expected(graph: Graph, x: Array) -> Array:
    """In floats: every value rounded on its grid, every weight as it is stored."""
    plain = onnx.ModelProto()
    plain.CopyFrom(graph.model)
    for tensor in plain.graph.initializer:
        if tensor.name in graph.integers:
            tensor.CopyFrom(onnx.numpy_helper.from_array(graph.encoding(tensor.name).values(), tensor.name))
    session = quiet_session(with_fake_quant(plain, graph.pairs).SerializeToString())
    (y,) = session.run(["y"], {"x": x, **settings(graph.pairs, graph.pairs)})
    return np.asarray(y)


def noise(y: Array, wanted: Array) -> float:
    return float(np.linalg.norm(y - wanted) / np.linalg.norm(wanted))


def run(made: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(quiet_session(made.SerializeToString()).run(None, {"x": x})[0])


@pytest.mark.parametrize("kind", ["uint8", "int8", "uint16"])
def test_computes_what_rounded_floats_do(kind: str) -> None:
    made, graph = in_integers(residual(), X, kind)
    assert noise(run(made, X), expected(graph, X)) < 0.02  # one step more or less where a sum falls on a half
    assert noise(run(made, X), run(residual(), X)) < 0.1


def test_runtime_makes_integer_kernels_of_every_node(tmp_path: Path) -> None:
    made, _ = in_integers(residual(), X)
    found = kernels(made, tmp_path)
    assert found["QLinearConv"] == 3
    assert found["QLinearAdd"] == 1
    assert found["QGemm"] == 1
    assert found["QuantizeLinear"] == 1
    assert not {"Conv", "Gemm", "Relu", "Clip", "DequantizeLinear"} & found.keys()


def test_one_step_for_all_weights_of_a_product_is_one_for_each_output(tmp_path: Path) -> None:
    """As while nodes are timed. The kernel of products takes no steps of inputs."""
    w, x = weights(24, 40), weights(2, 5, 24)
    made = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}, {"x": ["n", "t", 24]}, {"y": ["n", "t", 40]}
    )
    graph, k = graph_of(made), np.ceil(np.log2(np.abs(w).max() / 127) * 4)
    graph.pair("x", QuantParams.over(float(x.min()), float(x.max()), "uint8"))
    graph.store(
        "w", Affine(np.rint(w / 2.0 ** (k / 4)).astype(np.int32), np.array([k], np.int16), 0, np.dtype("float32"))
    )
    graph.keep_integers("w")
    inner, encodings = graph.export()
    embed(inner, {name: weight.run_time_tensor() for name, weight in encodings.items()})
    assert kernels(inner, tmp_path)["MatMulIntegerToFloat"] == 1
    assert noise(run(inner, x), x @ w) < 0.02


def test_weights_arrive_as_integers_and_share_zero_points() -> None:
    made, _ = in_integers(residual(), X)
    types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    assert all(types[name] == onnx.TensorProto.INT8 for name in ("w1", "w2", "w3", "w4"))
    assert "b1" not in types
    assert sum(name.startswith("qdq-zeros-int8-8") for name in types) == 1


def test_a_float_layer_between_integers_keeps_its_weights() -> None:
    """ONNX Runtime must not round them, as it does where a pair stands on either side."""
    made, graph = in_integers(residual(), X, floats=("conv2",))
    assert "w2" not in graph.integers
    exact, rounded = grid(graph.values("w2"), 0).values(), graph.values("w2")
    assert not np.array_equal(exact, rounded)
    assert noise(run(made, X), expected(graph, X)) < 0.02


def test_users_outputs_and_inputs_keep_their_names_and_types() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["y"], "relu"),
        helper.make_node("GlobalAveragePool", ["y"], ["z"], "mean"),
    ]
    made = model(nodes, {"w": weights(8, 8, 3, 3)}, {"x": ["n", 8, 12, 12]}, {"y": None, "z": None})
    graph = graph_of(made)
    for name in ("x", "y", "z"):
        graph.pair(name, QuantParams(0.1, 0 if name != "x" else 128, "uint8"))
    graph.store("w", grid(graph.values("w"), 0))
    graph.keep_integers("w")
    inner, encodings = graph.export()
    embed(inner, {name: weight.values() for name, weight in encodings.items()})
    y, z = quiet_session(inner.SerializeToString()).run(None, {"x": X})
    assert y.dtype == z.dtype == np.float32
    assert np.allclose(y / 0.1, np.rint(y / 0.1), atol=1e-3)


def test_nothing_of_it_is_left_after_reset() -> None:
    graph = graph_of(residual())
    before = graph.export()[0].SerializeToString(deterministic=True)
    graph.pair("x", QuantParams(0.1, 128, "uint8"))
    graph.reset()
    assert graph.export()[0].SerializeToString(deterministic=True) == before


def test_units_end_with_their_rectifier() -> None:
    found = {unit.name: unit for unit in fused_ops(graph_of(residual()).model)}
    assert found["conv1"].output == "r1" and found["depthwise"].output == "r3" and found["add"].output == "r2"
    assert "relu1" not in found and "clip" not in found
    assert found["pool"].kind is found["pad"].kind is found["flatten"].kind is QdqSupport.PASSTHROUGH
    assert found["gemm"].kind is QdqSupport.FLOAT_OUTPUT


def test_strange_layers_stay_floats() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "shared1"),
        helper.make_node("Conv", ["x", "w"], ["b"], "shared2"),
        helper.make_node("Add", ["a", "c"], ["d"], "constant"),
        helper.make_node("Gemm", ["f", "g"], ["e"], "scaled", alpha=2.0),
        helper.make_node("Softmax", ["b"], ["h"], "softmax"),
        helper.make_node("Pad", ["b", "pads", "one"], ["i"], "ones"),
    ]
    tensors = {"w": weights(8, 8, 1, 1), "c": weights(8, 1, 1), "g": weights(8, 8),
               "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "one": np.float32(1)}  # fmt: skip
    made = model(nodes, tensors, {"x": ["n", 8, 4, 4], "f": ["n", 8]}, dict.fromkeys("dehi"))
    assert all(unit.kind is QdqSupport.NONE for unit in fused_ops(graph_of(made).model))


@given(st.floats(-1e4, 0, width=32), st.floats(0, 1e4, width=32), st.sampled_from(["uint8", "int8", "uint16"]))
def test_a_grid_holds_zero_and_its_range(low: float, high: float, kind: str) -> None:
    pair = QuantParams.over(low, high, kind)
    step = pair.scale
    assert pair.reach[0] <= 0 <= pair.reach[1]
    assert pair.reach[0] <= low + step and pair.reach[1] >= high - step
    if low == 0 and high > 1e-3:
        steps = np.iinfo(kind).max - np.iinfo(kind).min
        assert np.float32(steps) * np.float32(pair.scale) <= np.float32(high)  # or the runtime keeps the rectifier
    assert QuantParams.from_step(Step.parse(str(pair.step()))) == pair


@pytest.mark.parametrize("arguments", ["", "1,300,uint8", "0,0,int8", "1,0,int4", "1,0,int8,1"])
def test_a_bad_step_says_what_is_wrong(arguments: str) -> None:
    values = zip(("scale", "zero", "type", "more"), arguments.split(","), strict=False)
    text = ",".join(f'{key}="{value}"' if key == "type" else f"{key}={value}" for key, value in values if value)
    with pytest.raises(OnnxoptError, match="qdq"):
        QuantParams.from_step(Step.parse(f"qdq{{{text}}}" if text else "qdq"))


def test_an_unknown_value_and_old_operators_are_refused() -> None:
    with pytest.raises(OnnxoptError, match="no value is called"):
        graph_of(residual()).pair("nothing", QuantParams(0.1, 0, "uint8"))
    old = residual()
    old.opset_import[0].version = 11
    with pytest.raises(OnnxoptError, match="operators of version 13"):
        graph_of(old).pair("x", QuantParams(0.1, 0, "uint8"))
