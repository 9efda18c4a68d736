"""Forms that models may have: functions, sparse constants, types left out, external data behind links."""

from __future__ import annotations

from pathlib import Path

import all_ways
import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxopt import OnnxoptError, optimize
from onnxopt.graph import Gradient, Graph, normalise, read

node = helper.make_node
X = {"x": all_ways.random(3, 64)}
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]


def function(name: str, inputs: list[str], nodes: list[onnx.NodeProto], **more: object) -> onnx.FunctionProto:
    return helper.make_function("own", name, inputs, ["o"], nodes, OPSETS, **more)


def calling(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    constants = {"w": weights(64, 64, scale=0.1), "h": weights(64, 64, seed=1, scale=0.1)}
    made = model(nodes, constants, {"x": ["n", 64]}, {"y": ["n", 64]}, ir_version=10)
    made.opset_import.append(OPSETS[1])
    made.functions.extend(functions)
    return made


def leaky(default: float | None = None) -> onnx.FunctionProto:
    """``leaky_relu(x w)``, with the slope as an attribute."""
    last = node("LeakyRelu", ["h"], ["o"])
    last.attribute.append(AttributeProto(name="alpha", ref_attr_name="slope", type=AttributeProto.FLOAT))
    made = function("Leaky", ["x", "w"], [node("MatMul", ["x", "w"], ["h"]), last])
    if default is None:
        made.attribute.append("slope")
    else:
        made.attribute_proto.append(helper.make_attribute("slope", default))
    return made


def test_weights_of_functions_are_compressed(tmp_path: Path) -> None:
    twice = function("Twice", ["x", "w"], [node("Leaky", ["x", "w"], ["h"], domain="own", slope=0.3),
                                           node("Leaky", ["h", "w"], ["o"], domain="own")])  # fmt: skip
    made = calling(
        [node("Twice", ["x", "h"], ["w2"], domain="own"), node("MatMul", ["w2", "w"], ["y"])], [leaky(), twice]
    )
    all_ways.check(made, tmp_path, X)
    normalise(made)
    assert {site.op for site in Graph(made).sites()} == {"MatMul"}


def test_attributes_that_a_call_leaves_out_have_the_functions_default(tmp_path: Path) -> None:
    made = calling(
        [node("Leaky", ["x", "w"], ["z"], domain="own"), node("Leaky", ["z", "h"], ["y"], domain="own", slope=0.9)],
        [leaky(default=0.5)],
    )
    all_ways.check(made, tmp_path, X, most=None)


def test_overloads_are_told_apart(tmp_path: Path) -> None:
    product, negated = node("MatMul", ["x", "w"], ["o"]), node("Neg", ["h"], ["o"])
    functions = [
        function("F", ["x", "w"], [product], overload="plain"),
        function("F", ["x", "w"], [node("MatMul", ["x", "w"], ["h"]), negated], overload="negated"),
    ]
    nodes = [node("F", ["x", "w"], ["z"], domain="own", overload="plain"),
             node("F", ["z", "h"], ["y"], domain="own", overload="negated")]  # fmt: skip
    all_ways.check(calling(nodes, functions), tmp_path, X, most=None)


@pytest.mark.parametrize("opset", [17, 14])
def test_a_function_called_like_an_operator_is_none(opset: int, tmp_path: Path) -> None:
    """ONNX does not inline functions of another opset, so one of these stays."""
    turned = function("MatMul", ["x", "w"], [node("Transpose", ["w"], ["t"]), node("MatMul", ["x", "t"], ["o"])])
    turned.opset_import[0].version = opset
    nodes = [node("MatMul", ["x", "w"], ["z"], domain="own"), node("MatMul", ["z", "h"], ["y"])]
    all_ways.check(calling(nodes, [turned]), tmp_path, X)


def test_a_function_with_a_weight_that_is_called_often_is_stored_once(tmp_path: Path) -> None:
    held = numpy_helper.from_array(weights(64, 64, scale=0.1))
    inner = [node("Constant", [], ["k"], value=held), node("MatMul", ["x", "k"], ["p"]), node("Tanh", ["p"], ["o"])]
    nodes = [node("Held", [x], [y], domain="own") for x, y in (("x", "a"), ("a", "b"), ("b", "y"))]
    made = calling(nodes, [function("Held", ["x"], inner)])
    del made.graph.initializer[:]
    all_ways.check(made, tmp_path, X, most=None)
    result = optimize(tmp_path / "model.onnx", tmp_path / "small.onnx", lossless=True)
    assert result.bytes_after < result.bytes_before


def sparse(name: str, seed: int) -> onnx.SparseTensorProto:
    dense = weights(64, 64, seed=seed) * (np.random.default_rng(seed).random((64, 64)) < 0.1)
    where = np.argwhere(dense)
    indices = where if seed % 2 else np.ravel_multi_index(tuple(where.T), dense.shape)
    values = numpy_helper.from_array(dense[tuple(where.T)], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(indices, f"{name}_at"), dense.shape)


def test_sparse_constants_are_weights(tmp_path: Path) -> None:
    nodes = [node("Constant", [], ["v"], sparse_value=sparse("", 1)), node("MatMul", ["x", "w"], ["h"]),
             node("MatMul", ["h", "v"], ["y"])]  # fmt: skip
    made = model(nodes, {}, {"x": ["n", 64]}, {"y": ["n", 64]})
    made.graph.sparse_initializer.append(sparse("w", 2))
    all_ways.check(made, tmp_path, X)


@pytest.mark.parametrize("given", [{"value_floats": [0.5] * 64}, {"value_float": 2.0}])
def test_constants_of_numbers(given: dict[str, object], tmp_path: Path) -> None:
    nodes = [node("Constant", [], ["k"], **given), node("Mul", ["x", "k"], ["h"]), node("MatMul", ["h", "w"], ["y"])]
    made = model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]})
    all_ways.check(made, tmp_path, X, most=None)


def test_outputs_need_no_type(tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["y"]), node("Cast", ["y"], ["half"], to=TensorProto.FLOAT16)]
    made = model(nodes, {"w": weights(64, 64)}, {"x": ["n", 64]}, {})
    made.graph.output.extend(onnx.ValueInfoProto(name=name) for name in ("half", "y"))
    all_ways.check(made, tmp_path, X)


def with_external(folder: Path, locations: dict[str, tuple[str, int]]) -> Path:
    """``x w v`` whose weights are external, at (file, offset)."""
    made = model([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])], {},
                 {"x": ["n", 64]}, {"y": ["n", 64]})  # fmt: skip
    for name, (location, offset) in locations.items():
        tensor = made.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[64, 64])
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in (("location", location), ("offset", str(offset)), ("length", str(64 * 64 * 4))):
            tensor.external_data.add(key=key, value=text)
    path = folder / "model.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def test_a_cache_of_links_is_read(tmp_path: Path) -> None:
    """As huggingface_hub lays out its cache."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "rev"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    with_external(blobs, {"w": ("model.onnx_data", 0), "v": ("model.onnx_data", 64 * 64 * 4)}).rename(blobs / "aa")
    weights(128, 64, scale=0.1).tofile(blobs / "bb")
    for name, blob in (("model.onnx", "aa"), ("model.onnx_data", "bb")):
        (snapshot / name).symlink_to(f"../../blobs/{blob}")
    all_ways.check_file(snapshot / "model.onnx", X, most=None)


def test_tied_weights_never_make_the_file_grow(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 2**32, (64, 64), np.uint32)
    (noise & 0x3FFFFFFF | 0x20000000).view(np.float32).tofile(tmp_path / "data")
    path = with_external(tmp_path, {"w": ("data", 0), "v": ("data", 0)})
    result = optimize(path, tmp_path / "small.onnx", lossless=True)
    assert result.bytes_after <= result.bytes_before
    copied = onnx.load_model_from_string(read(path).copy())
    assert copied.ByteSize() <= result.bytes_before
    assert len(copied.graph.initializer) == 1


@pytest.mark.parametrize(
    ("location", "offset", "what"),
    [
        ("../data", 0, r"'\.\./data', expected a file in the model's folder"),
        ("sub/../data", 0, r"'sub/\.\./data', expected a file in the model's folder"),
        ("/data", 0, r"'/data', expected a file in the model's folder"),
        ("gone", 0, "'gone', which is no file"),
        ("data", 4, "takes 16384 bytes, but its region is 16384 bytes from 4 on, in 'data' of 16384 bytes"),
    ],
)
def test_other_external_data_is_refused(location: str, offset: int, what: str, tmp_path: Path) -> None:
    weights(64, 64).tofile(tmp_path / "data")
    path = with_external(tmp_path, {"w": (location, offset), "v": ("data", 0)})
    with pytest.raises(OnnxoptError, match=rf"model\.onnx: cannot be read: tensor 'w' .*{what}"):
        read(path)


def test_a_tensor_of_another_size_than_its_shape_is_refused(tmp_path: Path) -> None:
    made = model([node("MatMul", ["x", "w"], ["y"])], {"w": weights(64, 64)}, {"x": ["n", 64]}, {"y": ["n", 64]})
    made.graph.initializer[0].dims[0] = 63
    (tmp_path / "model.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(OnnxoptError, match="tensor 'w' takes 16128 bytes, but it has 16384"):
        read(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("first", "second"),
    [(1e-41, 1.0), (1e20, 1e-20), *(pytest.param(*pair, marks=pytest.mark.slow)
                                    for pair in ((1e30, 1.0), (1e-22, 1e22), (1e-10, 1e10)))],
)  # fmt: skip
def test_finite_weights_of_any_size(first: float, second: float, tmp_path: Path) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "v"], ["y"])]
    constants = {"w": (weights(64, 64).astype(np.float64) * first).astype(np.float32),
                 "v": (weights(64, 64, seed=1).astype(np.float64) * second).astype(np.float32)}  # fmt: skip
    all_ways.check(model(nodes, constants, {"x": ["n", 64]}, {"y": ["n", 64]}), tmp_path, X)


def test_shapes_may_depend_on_the_data() -> None:
    nodes = [node("Greater", ["x", "one"], ["g"]), node("NonZero", ["g"], ["i"]),
             node("Transpose", ["i"], ["t"], perm=[1, 0]), node("GatherND", ["x", "t"], ["found"]),
             node("Unsqueeze", ["found", "axis"], ["column"]), node("MatMul", ["column", "w"], ["y"])]  # fmt: skip
    constants = {"one": np.float32(1), "axis": np.array([1]), "w": weights(1, 64)}
    made = model(nodes, constants, {"x": ["n", 64]}, {"y": ["k", 64]})
    normalise(made)
    gradient = Gradient(made, ["w"])
    for scale in (1, 2, 1):
        found, signal = gradient.weights({"x": scale * X["x"]}, 0)
        assert found["w"].shape == (1, 64)
        assert signal > 0
