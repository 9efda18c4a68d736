"""Sensitivities against central differences: every rule alone, small models, and real ones."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import FLOAT, branches, lstm, mlp, weights
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph import normalise
from onnxopt.graph.gradient import Gradient
from onnxopt.graph.gradient.tape import RULES

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))
import realdata

Array = np.ndarray[Any, Any]
node = helper.make_node
STEP = 0.004


def spread(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers further apart than a few steps, and as far from zero where the range is symmetric: no kink is near."""
    count = int(np.prod(shape))
    count += count % 2
    values = np.random.default_rng(seed).permutation(np.linspace(low, high, count))
    return values[: int(np.prod(shape))].reshape(shape).astype(np.float32)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def projected(model: onnx.ModelProto, also: str, also_shape: tuple[int, ...], feeds: dict[str, Array]) -> None:
    """Makes the model's only output the scalar ``sum r y + sum s also``, so that one pass is exact and signs count."""
    outputs = [v.name for v in model.graph.output]
    shapes = [np.asarray(a).shape for a in session(model).run(outputs, feeds)]
    del model.graph.output[:]
    rng = np.random.default_rng(7)
    for i, (name, shape) in enumerate(zip((*outputs, also), (*shapes, also_shape), strict=True)):
        r = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        model.graph.initializer.append(numpy_helper.from_array(r.astype(np.float32), f"r{i}"))
        flat = [node("Mul", [name, f"r{i}"], [f"m{i}"]), node("Reshape", [f"m{i}", "flat"], [f"f{i}"])]
        model.graph.node.extend([*flat, node("MatMul", [f"f{i}", f"ones{i}"], [f"s{i}"])])
        ones = np.ones((int(np.prod(shape)), 1), np.float32)
        model.graph.initializer.append(numpy_helper.from_array(ones, f"ones{i}"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "flat"))
    model.graph.node.append(node("Sum", [f"s{i}" for i in range(len(outputs) + 1)], ["loss"]))
    model.graph.output.append(helper.make_tensor_value_info("loss", FLOAT, [1, 1]))


def slopes(model: onnx.ModelProto, feeds: dict[str, Array], name: str, step: float = STEP) -> Array:
    """The gradient of the scalar output for the input `name`, by central differences."""
    run, x = session(model), feeds[name]
    found = np.zeros(x.size)
    for i in range(x.size):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved.flat[i] += np.float32(sign * step)
            ends.append(float(run.run(None, {**feeds, name: moved})[0].item()))
        found[i] = (ends[0] - ends[1]) / (2 * step)
    return found.reshape(x.shape)


def check(
    nodes: list[onnx.NodeProto],
    x: Array,
    tensors: dict[str, Array] | None = None,
    opset: int = 17,
    outputs: tuple[str, ...] = ("y",),
) -> None:
    """The gradient of what `nodes` make of x is that of central differences, by channel and by position."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, x.shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in (tensors or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    projected(model, "x", x.shape, {"x": x})
    expected = np.square(slopes(model, {"x": x}, "x"))
    gradient = Gradient(model, ["x"])
    power, positions = gradient.power({"x": x}, 0), gradient.positions({"x": x}, 0)
    assert not gradient.unsupported
    axis = 1 if x.ndim > 2 else x.ndim - 1
    others = tuple(i for i in range(x.ndim) if i != axis)
    np.testing.assert_allclose(power["x"], expected.sum(others), rtol=2e-2, atol=2e-3 * expected.max())
    np.testing.assert_allclose(positions["x"], expected.sum(axis, keepdims=True), rtol=2e-2, atol=5e-3 * expected.max())


TESTED: set[str] = set()


def case(op: str, *args: Any, x: Array | None = None, opset: int = 17, name: str = "", **attributes: Any) -> Any:
    """One operator on x, its further inputs `args`: arrays, None where left out, "x" for x itself."""
    TESTED.add(op)
    return pytest.param(op, args, spread(2, 3, 4) if x is None else x, opset, attributes, id=name or f"{op}-{opset}")


def i64(*values: int) -> Array:
    return np.array(values, np.int64)


POSITIVE = spread(2, 3, 4, low=0.5, high=2)
IMAGE = spread(1, 3, 6, 5)
CASES = [
    *(case(op) for op in ("Relu", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Selu", "Erf")),
    *(case(op) for op in ("Exp", "Neg", "Abs", "Softplus", "Softsign", "Sin", "Cos", "Identity", "Dropout")),
    *(case(op, x=POSITIVE) for op in ("Log", "Sqrt", "Reciprocal")),
    case("ThresholdedRelu", alpha=0.5),
    case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh", name="Gelu-tanh"),
    case("Clip", np.float32(-1), np.float32(0.77)),
    case("Clip", None, np.float32(0.77), name="Clip-max"),
    case("Clip", opset=10, min=-1.0, max=0.77),
    case("Cast", to=TensorProto.DOUBLE),
    case("PRelu", spread(3, 1, seed=1)),
    case("Add", spread(3, 1)),
    case("Add", "x", name="Add-self"),
    case("Sum", "x", spread(4)),
    case("Mean", "x", spread(4)),
    case("Sub", spread(1, 3, 1)),
    case("Mul", spread(3, 1)),
    case("Mul", "x", name="Mul-self"),
    case("Div", spread(4)),
    case("Max", spread(4, seed=3, low=-1.91, high=1.83)),
    case("Min", spread(4, seed=3, low=-1.91, high=1.83)),
    case("Pow", np.float32(3)),
    case("Pow", np.float32(-0.5), x=POSITIVE, name="Pow-root"),
    case("Mul", spread(2, 3, 4), x=spread(3, 1), name="Mul-broadcast"),
    case("Div", spread(2, 3, 4), x=spread(1, 3, 1), name="Div-broadcast"),
    case("Reshape", i64(3, -1)),
    case("Flatten"),
    case("Squeeze", i64(0), x=spread(1, 3, 4)),
    case("Squeeze", x=spread(1, 3, 4), opset=11, axes=[0]),
    case("Unsqueeze", i64(1)),
    case("Transpose", perm=[2, 0, 1]),
    case("Transpose", name="Transpose-reversed"),
    case("Expand", i64(2, 2, 3, 4)),
    case("Tile", i64(2, 1, 3)),
    case("Concat", "x", spread(2, 1, 4), axis=1),
    case("Concat", "x", "x", axis=-1, name="Concat-last"),
    case("Slice", i64(1, 0), i64(3, 2), i64(2, 0)),
    case("Slice", i64(-1), i64(-(2**63)), i64(2), i64(-2), name="Slice-backwards"),
    case("Slice", i64(0), i64(9), i64(2), i64(2), name="Slice-steps"),
    case("Slice", opset=9, starts=[1], ends=[3], axes=[1]),
    case("Gather", i64(2, 0, 2), axis=1),
    case("Gather", np.int64(1), axis=-1, name="Gather-scalar"),
    case("Pad", i64(0, 1, 0, 0, 2, 1)),
    case("Pad", i64(0, -1, 0, 0, 2, -1), name="Pad-crop"),
    case("Pad", i64(0, 1, 2, 0, 2, 1), mode="reflect", name="Pad-reflect"),
    case("Pad", i64(0, 1, 2, 0, 2, 1), mode="edge", name="Pad-edge"),
    case("Pad", opset=9, pads=[0, 1, 0, 0, 2, 1]),
    case("Pad", i64(1, 2), None, i64(-1), opset=18),
    case("DepthToSpace", x=spread(1, 8, 2, 3), blocksize=2),
    case("DepthToSpace", x=spread(1, 8, 2, 3), blocksize=2, mode="CRD", name="DepthToSpace-CRD"),
    case("SpaceToDepth", x=spread(1, 2, 4, 6), blocksize=2),
    case("Resize", None, np.array([1, 1, 2, 2], np.float32), x=IMAGE, mode="nearest"),
    case("Resize", None, np.array([1, 1, 1.5, 2], np.float32), x=IMAGE, mode="linear", name="Resize-linear"),
    case("Resize", None, None, i64(1, 3, 4, 9), x=IMAGE, mode="cubic", name="Resize-sizes"),
    case(
        "Resize", None, None, i64(12, 5), x=IMAGE, mode="linear", opset=18, axes=[2, 3],
        coordinate_transformation_mode="align_corners",
    ),
    case("Resize", np.array([1, 1, 2, 2], np.float32), x=IMAGE, mode="nearest", opset=10),
    case("Upsample", np.array([1, 1, 2, 3], np.float32), x=IMAGE, mode="linear", opset=9),
    case("Upsample", x=IMAGE, mode="nearest", opset=8, scales=[1.0, 1.0, 2.0, 2.0]),
    case("Conv", weights(4, 3, 3, 3), weights(4), x=IMAGE, pads=[1, 1, 1, 1]),
    case("Conv", weights(4, 3, 3), x=spread(2, 3, 7), strides=[2], auto_pad="SAME_LOWER", name="Conv-1d"),
    case("Conv", weights(2, 2, 2, 2, 2), x=spread(1, 2, 4, 3, 4), auto_pad="SAME_UPPER", name="Conv-3d"),
    case("ConvTranspose", weights(3, 2, 3, 3), weights(2), x=spread(1, 3, 4, 3), strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, storage_order=1, name="MaxPool-ceil"),
    case("MaxPool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", opset=8),
    case("MaxPool", x=spread(2, 2, 9), kernel_shape=[3], dilations=[2], name="MaxPool-1d"),
    case("AveragePool", x=IMAGE, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    case("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", name="AveragePool-same"),
    case("GlobalAveragePool", x=IMAGE),
    case("GlobalMaxPool", x=IMAGE),
    case("LRN", x=spread(1, 6, 2, 3), size=3, alpha=0.5, beta=0.75, bias=1.2),
    case("ReduceMean", axes=[1], keepdims=0),
    case("ReduceMean", i64(-1), opset=18),
    case("ReduceSum", i64(0, 2)),
    case("ReduceSum", name="ReduceSum-all"),
    case("ReduceSum", opset=11, axes=[-1]),
    *(case(op, axes=[1]) for op in ("ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare")),
    case("ReduceLogSumExp", axes=[1, 2]),
    case("Gemm", weights(5, 4), weights(5), x=spread(3, 4), transB=1, alpha=0.5),
    case("Gemm", weights(3, 5), x=spread(3, 4), transA=1, name="Gemm-transA"),
    case("Gemm", weights(5, 3), x=spread(3, 4), transA=1, transB=1, name="Gemm-both"),
    case("Gemm", "x", x=spread(4, 4), transB=1, alpha=0.5, name="Gemm-self"),
    case("MatMul", weights(4, 5)),
    case("MatMul", weights(4), name="MatMul-vector"),
    case("MatMul", weights(5, 1, 4, 2), name="MatMul-batches"),
    case("MatMul", weights(2, 4, 3), x=spread(4), name="MatMul-of-vector"),
    case("MatMul", "x", x=spread(2, 3, 3), name="MatMul-self"),
    case("Softmax"),
    case("Softmax", opset=11, axis=1),
    case("LogSoftmax", axis=1),
    case("BatchNormalization", weights(3), weights(3), weights(3), np.abs(weights(3)) + np.float32(0.1)),
    case("InstanceNormalization", weights(3), weights(3)),
    case("LayerNormalization", weights(3, 4), weights(3, 4), axis=1),
    case("LpNormalization", axis=1, p=2),
]  # fmt: skip


@pytest.mark.parametrize(("op", "args", "x", "opset", "attributes"), CASES)
def test_a_rule_agrees_with_central_differences(
    op: str, args: tuple[Any, ...], x: Array, opset: int, attributes: dict[str, Any]
) -> None:
    tensors = {f"t{i}": a for i, a in enumerate(args) if isinstance(a, np.ndarray | np.generic)}
    names = ["x", *("x" if isinstance(a, str) else "" if a is None else f"t{i}" for i, a in enumerate(args))]
    if op == "Cast":
        nodes = [node("Cast", ["x"], ["d"], **attributes), node("Cast", ["d"], ["y"], to=TensorProto.FLOAT)]
    else:
        nodes = [node(op, names, ["y"], op, **attributes)]
    check(nodes, x, tensors, opset)


@pytest.mark.parametrize("op", ["Sub", "Div", "MatMul"])
def test_second_operands_agree_with_central_differences(op: str) -> None:
    check(
        [node(op, ["w", "x"], ["y"])],
        spread(2, 3, 4, low=0.5),
        {"w": weights(2, 1, 3) if op == "MatMul" else weights(3, 4)},
    )


def test_where_splits_the_gradient() -> None:
    condition = np.random.default_rng(0).random((2, 3, 4)) > 0.4
    nodes = [node("Neg", ["x"], ["n"]), node("Where", ["c", "x", "n"], ["y"])]
    check(nodes, spread(2, 3, 4), {"c": condition})
    check([node("Where", ["c", "x", "zero"], ["y"])], spread(3, 1), {"c": condition, "zero": np.float32(0)})


@pytest.mark.parametrize("opset", [11, 17])
def test_split_gathers_what_its_parts_get(opset: int) -> None:
    sizes, tensors = ({"split": [1, 2]}, {}) if opset < 13 else ({}, {"sizes": i64(1, 2)})
    nodes = [node("Split", ["x", *tensors], ["a", "b"], axis=1, **sizes), node("Tanh", ["b"], ["y"])]
    check(nodes, spread(2, 3, 4), tensors, opset)


def test_every_rule_is_tested() -> None:
    elsewhere = {"Where", "Split", "CastLike", "QuantizeLinear", "DequantizeLinear"}
    assert set(RULES) - TESTED == elsewhere


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a convolution over two axes."""
    pair = lambda low, high: draw(st.lists(st.integers(low, high), min_size=2, max_size=2))  # noqa: E731
    found = {"kernel_shape": pair(1, 3), "strides": pair(1, 3)}
    if draw(st.booleans()):
        return {**found, "auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}
    return {**found, "pads": pair(0, 2) + pair(0, 2)}


@settings(max_examples=25, deadline=None)
@given(windows(), st.lists(st.integers(1, 2), min_size=2, max_size=2), st.integers(1, 2), st.integers(3, 7))
def test_any_convolution(attributes: dict[str, Any], dilations: list[int], group: int, size: int) -> None:
    if "auto_pad" not in attributes or attributes["auto_pad"] == "VALID":
        attributes = {**attributes, "dilations": dilations}
    w = weights(4, 2 // group, *attributes["kernel_shape"], seed=size)
    checked_if_it_runs([node("Conv", ["x", "w"], ["y"], group=group, **attributes)], spread(1, 2, size, 6), {"w": w})


@settings(max_examples=25, deadline=None)
@given(windows(), st.integers(1, 2), st.lists(st.integers(0, 1), min_size=2, max_size=2), st.integers(1, 4))
def test_any_transposed_convolution(attributes: dict[str, Any], group: int, extra: list[int], size: int) -> None:
    extra = [min(e, stride - 1) for e, stride in zip(extra, attributes["strides"], strict=True)]
    w = weights(2, 2, *attributes["kernel_shape"], seed=size)
    transposed = node("ConvTranspose", ["x", "w"], ["y"], group=group, output_padding=extra, **attributes)
    checked_if_it_runs([transposed], spread(1, 2, size, 3), {"w": w})


@settings(max_examples=40, deadline=None)
@given(windows(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans(), st.integers(3, 7))
def test_any_pooling(attributes: dict[str, Any], op: str, ceil: bool, include: bool, size: int) -> None:
    pads = [min(p, k - 1) for p, k in zip(attributes.get("pads", []), attributes["kernel_shape"] * 2, strict=False)]
    attributes = {**attributes, **({"pads": pads} if pads else {}), "ceil_mode": int(ceil)}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(include)
    checked_if_it_runs([node(op, ["x"], ["y"], **attributes)], spread(1, 2, size, 6), {})


def checked_if_it_runs(nodes: list[onnx.NodeProto], x: Array, tensors: dict[str, Array]) -> None:
    """Drawn attributes may fit no input; the runtime says so."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        [numpy_helper.from_array(a, name) for name, a in tensors.items()],
    )
    try:
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        y = session(model).run(None, {"x": x})[0]
    except Exception:
        assume(False)
    assume(y.size and np.isfinite(y).all())
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    assume([d.dim_value for d in inferred] == list(y.shape))  # else the runtime contradicts itself
    check(nodes, x, tensors)


# ---- whole models ----------------------------------------------------------------------------------------------------


def two_outputs(factor: float) -> onnx.ModelProto:
    """x[n, 8] -> MatMul -> h[n, 6] -> two Gemms -> a[n, 5] and, `factor` times as large, b[n, 3, 1]."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "wa"], ["a"]),
        node("MatMul", ["h", "wb"], ["c"]),
        node("Unsqueeze", ["c", "two"], ["b"]),
    ]
    tensors = {"w": weights(8, 6), "wa": weights(6, 5, seed=1), "wb": np.float32(factor) * weights(6, 3, seed=2)}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 8])],
        [onnx.ValueInfoProto(name="a"), onnx.ValueInfoProto(name="b")],
        [numpy_helper.from_array(a, name) for name, a in (tensors | {"two": i64(2)}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_projections_average_to_the_power_of_the_outputs_noise() -> None:
    model = mlp(16)
    x = weights(4, 16)
    gradient = Gradient(model, ["a", "mm", "y"], {"a": 1})
    found = np.mean([gradient.power({"x": x}, seed)["a"] for seed in range(300)], axis=0)
    matrix = numpy_helper.to_array(model.graph.initializer[1]).astype(np.float64)
    centred = matrix - matrix.mean(0)
    np.testing.assert_allclose(found, len(x) * np.square(centred).sum(0), rtol=0.25)
    assert np.corrcoef(found, np.square(centred).sum(0))[0, 1] > 0.95
    assert list(gradient.unsupported) == ["mm"]


def test_the_seed_decides_the_projection() -> None:
    gradient, x = Gradient(mlp(16), ["a"]), {"x": weights(4, 16)}
    first, second = gradient.power(x, 1)["a"], gradient.power(x, 2)["a"]
    assert np.array_equal(first, gradient.power(x, 1)["a"])
    assert not np.allclose(first, second)
    assert first.dtype == np.float64


def test_outputs_count_relative_to_their_size() -> None:
    x = {"x": weights(4, 8)}
    found = [Gradient(two_outputs(factor), ["h"]).power(x, 0)["h"] for factor in (1, 1000)]
    np.testing.assert_allclose(*found, rtol=1e-3)


@pytest.mark.parametrize(
    "ending",
    [
        [node("Softmax", ["s"], ["y"], axis=1)],
        [node("LogSoftmax", ["s"], ["p"], axis=1), node("Flatten", ["p"], ["y"])],
        [node("ArgMax", ["s"], ["y"], axis=1)],
    ],
)
def test_final_probabilities_and_decisions_are_left_out(ending: list[onnx.NodeProto]) -> None:
    """However sure the model is: with scores this large the Softmax is flat."""

    def build(ending: list[onnx.NodeProto], kind: int, name: str) -> onnx.ModelProto:
        nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["s"]), *ending]
        graph = helper.make_graph(
            nodes,
            "test",
            [helper.make_tensor_value_info("x", FLOAT, ["n", 8])],
            [helper.make_tensor_value_info(name, kind, None)],
            [numpy_helper.from_array(weights(8, 6), "w"), numpy_helper.from_array(1e3 * weights(6, 5), "v")],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    x = {"x": weights(4, 8)}
    plain = Gradient(build([], FLOAT, "s"), ["h"]).power(x, 0)["h"]
    kind = TensorProto.INT64 if ending[0].op_type == "ArgMax" else FLOAT
    np.testing.assert_allclose(Gradient(build(ending, kind, "y"), ["h"]).power(x, 0)["h"], plain)
    assert plain.min() > 0


def test_rounding_counts_as_the_identity_up_to_saturation() -> None:
    """x -> Q -> DQ passes gradients on within the range of uint8 at this scale, [-6.4, 6.35]."""
    x = np.array([[-9, -5, 0.3, 5, 9]], np.float32)
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    tensors = {"scale": np.float32(0.05), "zero": np.uint8(128), "w": weights(5, 1)}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, [1, 5])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 1])],
        [numpy_helper.from_array(np.asarray(a), name) for name, a in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    expected = np.square(tensors["w"][:, 0]) * [0, 1, 1, 1, 0]
    np.testing.assert_allclose(Gradient(model, ["x"]).power({"x": x}, 0)["x"], expected, rtol=1e-4)


def test_batches_of_any_size_run() -> None:
    gradient, x = Gradient(mlp(16), ["a"]), weights(6, 16)
    assert gradient.power({"x": x}, 0)["a"].shape == gradient.power({"x": x[:2]}, 0)["a"].shape == (32,)
    assert gradient.positions({"x": x}, 0)["a"].shape == (6, 1)


def test_an_operator_without_a_rule_is_named() -> None:
    model = lstm()
    model.graph.node.insert(0, node("Relu", ["x"], ["r"], "before"))
    model.graph.node[1].input[0] = "r"
    model.graph.node[1].name = "recurrent"
    gradient = Gradient(model, ["r", "y", "nowhere"])
    found = gradient.power({"x": weights(5, 1, 16)}, 0)
    assert list(found) == ["y"]
    assert "LSTM" in gradient.unsupported["r"]
    assert "recurrent" in gradient.unsupported["r"]
    assert "nowhere" in gradient.unsupported


def test_a_branch_has_no_rule_but_breaks_nothing() -> None:
    model = branches()
    normalise(model)
    gradient = Gradient(model, ["x", "sum"])
    assert gradient.power({"x": weights(4, 16)}, 0) == {}
    assert "If" in gradient.unsupported["x"]
    assert set(gradient.unsupported) == {"x", "sum"}


def test_shapes_computed_at_run_time_are_no_obstacle() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    check(nodes, spread(2, 3, 4), {"zero": i64(0), "rest": i64(-1)})


def test_a_model_that_does_not_run_on_the_feeds_says_so() -> None:
    with pytest.raises(Exception, match=r"(?i)dimension"):
        Gradient(mlp(16), ["a"]).power({"x": weights(4, 17)}, 0)


@pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)
@pytest.mark.parametrize(
    "name",
    [
        "lenet5", "resnet20", "squeezenet1.1", "mobilenet_v1_0.25", "mobilenet_v2", "resnet50v2_imagenette",
        "mobilefacenet", "mnist_cntk",
    ],
)  # fmt: skip
def test_real_models_agree_with_central_differences(name: str) -> None:
    """A constant is added to one channel of a convolution: the slope is the sum over positions of the gradient."""
    model = onnx.load(realdata.MODELS / f"{name}.onnx")
    normalise(model)
    feeds = {key: array[:1] for key, array in realdata.sensible_inputs(name)[0].items()}
    if model.graph.node[-1].op_type == "Softmax":
        model.graph.output[0].name = model.graph.node.pop().input[0]
    convolutions = [i for i, n in enumerate(model.graph.node) if n.op_type == "Conv"]
    for position, place in enumerate(sorted({convolutions[0], convolutions[len(convolutions) // 2]}, reverse=True)):
        conv = model.graph.node[place]
        made, shift = conv.output[0], f"shift{position}"
        conv.output[0] = f"{made}.plain"
        model.graph.node.insert(place + 1, node("Add", [f"{made}.plain", shift], [made]))
        weight = next(t for t in model.graph.initializer if t.name == conv.input[1])
        model.graph.input.append(helper.make_tensor_value_info(shift, FLOAT, [1, weight.dims[0], 1, 1]))
        feeds[shift] = np.zeros((1, weight.dims[0], 1, 1), np.float32)
    projected(model, "shift0", feeds["shift0"].shape, feeds)
    gradient = Gradient(model, ["shift0", "shift1"])
    power, run = gradient.power(feeds, 0), session(model)
    for shift in ("shift0", "shift1"):
        chosen = np.argsort(power[shift])[-6:]
        found = np.sqrt(power[shift][chosen])
        errors = []
        for step in (1e-4, 3e-4, 1e-3, 1e-2, 3e-2):  # long ones cross kinks, short ones drown in float32's rounding
            moved = [feeds[shift].copy() for _ in range(12)]
            for i, channel in enumerate(np.repeat(chosen, 2)):
                moved[i][0, channel] = step if i % 2 else -step
            ends = [run.run(None, {**feeds, shift: array})[0].item() for array in moved]
            errors.append(np.linalg.norm(np.abs(np.diff(ends)[::2]) / (2 * step) - found) / np.linalg.norm(found))
        assert min(errors) < 0.03, errors
