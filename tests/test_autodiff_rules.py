"""Every differentiation rule against central differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from builders import weights
from differences import Array, build, check, node, session, spread
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from onnxopt.graph.autodiff import Gradient
from onnxopt.graph.autodiff.tape import RULES

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
    case("Conv", weights(8, 3, 3, 3), x=spread(2, 3, 4, 3), name="Conv-many-outputs"),
    case("Conv", weights(8, 2, 1, 1), weights(8), x=spread(2, 4, 3, 3), group=2, name="Conv-pointwise"),
    case("ConvTranspose", weights(3, 2, 3, 3), weights(2), x=spread(1, 3, 4, 3), strides=[2, 2], pads=[1, 0, 1, 1]),
    case("MaxPool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("MaxPool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, storage_order=1, name="MaxPool-ceil"),
    case("MaxPool", x=IMAGE, kernel_shape=[2, 2], strides=[2, 2], auto_pad="SAME_UPPER", opset=8),
    case("MaxPool", x=spread(2, 2, 9), kernel_shape=[3], dilations=[2], name="MaxPool-1d"),
    case("AveragePool", x=IMAGE, kernel_shape=[2, 3], strides=[2, 2], pads=[1, 1, 0, 1]),
    case("AveragePool", x=IMAGE, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", name="AveragePool-same"),
    case(
        "AveragePool", x=spread(1, 2, 3, 4), kernel_shape=[2, 1], strides=[2, 1], auto_pad="VALID", ceil_mode=1,
        count_include_pad=1, name="AveragePool-valid",
    ),
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

FIXED = {
    "Clip": {"t0", "t1"},
    "Pow": {"t0"},
    "Resize": {"t0", "t1"},
    "Upsample": {"t0"},
}
"""Float inputs that are told no gradient."""


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
    check(nodes, x, tensors, opset, FIXED.get(op, ()))


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


def test_a_gather_may_take_what_the_input_decides() -> None:
    nodes = [node("ArgMax", ["x"], ["i"], axis=1, keepdims=0), node("Gather", ["w", "i"], ["y"], axis=1)]
    x, w = spread(2, 3, 4), weights(2, 3, 2)
    found = Gradient(build(nodes, x.shape, {"w": w}), ["w"]).weights({"x": x}, 0)[0]["w"]
    taken = np.zeros_like(w)
    for row in x.argmax(1).ravel():
        taken[:, row] += 1
    assert np.array_equal(found % 2, taken % 2)  # a sum of as many signs as the row is taken
    assert np.all(np.abs(found) <= taken)


def test_every_use_of_a_weight_counts() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("Sigmoid", ["a"], ["b"]),
        node("Transpose", ["w"], ["t"]),
        node("MatMul", ["b", "t"], ["y"]),
    ]
    check(nodes, spread(3, 4), {"w": weights(4, 4)})


@pytest.mark.parametrize("opset", [11, 17])
def test_split_gathers_what_its_parts_get(opset: int) -> None:
    sizes, tensors = ({"split": [1, 2]}, {}) if opset < 13 else ({}, {"sizes": i64(1, 2)})
    nodes = [node("Split", ["x", *tensors], ["a", "b"], axis=1, **sizes), node("Tanh", ["b"], ["y"])]
    check(nodes, spread(2, 3, 4), tensors, opset)


def test_every_rule_is_tested() -> None:
    elsewhere = {"Where", "Split", "CastLike", "QuantizeLinear", "DequantizeLinear", "RMSNormalization"}
    elsewhere |= {"DynamicQuantizeLinear", "SimplifiedLayerNormalization"}  # the second, an older name of another
    assert {op for op in RULES if "::" not in op} - TESTED == elsewhere


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    """Attributes of a convolution over two axes."""
    pair = lambda low, high: draw(st.lists(st.integers(low, high), min_size=2, max_size=2))  # noqa: E731
    found = {"kernel_shape": pair(1, 3), "strides": pair(1, 3)}
    if draw(st.booleans()):
        return {**found, "auto_pad": draw(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]))}
    return {**found, "pads": pair(0, 2) + pair(0, 2)}


@settings(max_examples=25)
@given(windows(), st.lists(st.integers(1, 2), min_size=2, max_size=2), st.sampled_from([1, 2, 4]), st.integers(3, 7))
def test_any_convolution(attributes: dict[str, Any], dilations: list[int], group: int, size: int) -> None:
    if "auto_pad" not in attributes or attributes["auto_pad"] == "VALID":
        attributes = {**attributes, "dilations": dilations}
    w = weights(4, 4 // group, *attributes["kernel_shape"], seed=size)
    checked_if_it_runs([node("Conv", ["x", "w"], ["y"], group=group, **attributes)], spread(2, 4, size, 5), {"w": w})


@settings(max_examples=25)
@given(windows(), st.integers(1, 2), st.lists(st.integers(0, 1), min_size=2, max_size=2), st.integers(1, 4))
def test_any_transposed_convolution(attributes: dict[str, Any], group: int, extra: list[int], size: int) -> None:
    extra = [min(e, stride - 1) for e, stride in zip(extra, attributes["strides"], strict=True)]
    w = weights(2, 2, *attributes["kernel_shape"], seed=size)
    transposed = node("ConvTranspose", ["x", "w"], ["y"], group=group, output_padding=extra, **attributes)
    checked_if_it_runs([transposed], spread(1, 2, size, 3), {"w": w})


@settings(max_examples=40)
@given(windows(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans(), st.integers(3, 7))
def test_any_pooling(attributes: dict[str, Any], op: str, ceil: bool, include: bool, size: int) -> None:
    pads = [min(p, k - 1) for p, k in zip(attributes.get("pads", []), attributes["kernel_shape"] * 2, strict=False)]
    attributes = {**attributes, **({"pads": pads} if pads else {}), "ceil_mode": int(ceil)}
    if op == "AveragePool":
        attributes["count_include_pad"] = int(include)
    checked_if_it_runs([node(op, ["x"], ["y"], **attributes)], spread(1, 2, size, 6), {})


def checked_if_it_runs(nodes: list[onnx.NodeProto], x: Array, tensors: dict[str, Array]) -> None:
    """Drawn attributes may fit no input; the runtime says so."""
    try:
        model = build(nodes, x.shape, tensors)
        y = session(model).run(None, {"x": x})[0]
    except Exception:
        assume(False)
    assume(y.size and np.isfinite(y).all())
    inferred = onnx.shape_inference.infer_shapes(model).graph.output[0].type.tensor_type.shape.dim
    assume([d.dim_value for d in inferred] == list(y.shape))  # else the runtime contradicts itself
    check(nodes, x, tensors)
