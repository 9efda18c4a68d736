"""Gradients of weights: their meaning, their limits, and their values on real models."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import FLOAT, branches, lstm, mlp, weights
from differences import build, check, node, opened, project, session, shift, slopes, spread
from onnx import TensorProto, helper, numpy_helper

from common import realdata
from onnxopt.calibration.stats import Probe
from onnxopt.graph import normalise
from onnxopt.graph.autodiff import Gradient, gradient


def two_outputs(factor: float) -> onnx.ModelProto:
    """x[n, 8] -> MatMul -> h[n, 6] -> two Gemms -> a[n, 5] and, `factor` times as large, b[n, 3, 1]."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("MatMul", ["h", "wa"], ["a"]),
        node("MatMul", ["h", "wb"], ["c"]),
        node("Unsqueeze", ["c", "two"], ["b"]),
    ]
    tensors = {"w": weights(8, 6), "wa": weights(6, 5, seed=1), "wb": np.float32(factor) * weights(6, 3, seed=2)}
    return build(nodes, ["n", 8], tensors | {"two": np.array([2])}, ["a", "b"])


def test_the_seed_decides_the_projection() -> None:
    gradient, x = Gradient(mlp(16), ["fc1"]), {"x": weights(4, 16)}
    first, second = gradient.weights(x, 1)[0]["fc1"], gradient.weights(x, 2)[0]["fc1"]
    assert np.array_equal(first, gradient.weights(x, 1)[0]["fc1"])
    assert not np.allclose(first, second)
    assert first.dtype == np.float32


def table_of_words(first: str, last: str) -> onnx.ModelProto:
    """ids[n] -> rows of a table -> products with all rows of a table, which may be the same."""
    nodes = [node("Gather", [first, "ids"], ["x"]), node("Transpose", [last], ["t"], perm=[1, 0]),
             node("MatMul", ["x", "t"], ["y"])]  # fmt: skip
    table = weights(12, 6)
    tensors = [numpy_helper.from_array(table, name) for name in dict.fromkeys((first, last))]
    ids, y = (
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["n"]),
        helper.make_tensor_value_info("y", FLOAT, None),
    )
    graph = helper.make_graph(nodes, "g", [ids], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_a_table_that_is_also_the_last_layer_has_the_gradients_of_both() -> None:
    ids = {"ids": np.array([3, 7, 3, 0])}
    (tied, signal), (apart, same) = (
        Gradient(table_of_words(*names), sorted(set(names))).weights(ids, 1) for names in (("w", "w"), ("v", "w"))
    )
    assert signal == same
    np.testing.assert_allclose(tied["w"], apart["v"] + apart["w"], rtol=1e-5, atol=1e-6)


def test_outputs_count_relative_to_their_size() -> None:
    x = {"x": weights(4, 8)}
    (small, signal), (large, same) = (Gradient(two_outputs(factor), ["w"]).weights(x, 0) for factor in (1, 1000))
    np.testing.assert_allclose(small["w"], large["w"], rtol=1e-3, atol=1e-5)
    assert signal == same == 8


def test_a_value_without_elements_has_no_gradient() -> None:
    """The runtime's kernels need not be made for it, and an error in them ends the process."""
    tensors = {"w": weights(8, 6), "v": weights(6, 5), "none": np.array([0])}
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Slice", ["h", "none", "none", "none"], ["empty"]),
        node("MatMul", ["empty", "v"], ["y"]),
        node("Relu", ["h"], ["z"]),
    ]
    gradient = Gradient(build(nodes, ["n", 8], tensors, ("y", "z")), ["w", "v"])
    gradient.weights({"x": weights(2, 8)}, 0)
    assert "a value has no elements" in gradient.unsupported["v"]


def test_constants_of_a_values_shape_take_no_gradient() -> None:
    """A detector's anchors, which have the shape of what they are added to."""
    tensors = {"w": weights(8, 6), "v": weights(6, 6)}
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Shape", ["h"], ["s"]),
        node("ConstantOfShape", ["s"], ["c"], value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("MatMul", ["c", "v"], ["a"]),
        node("Mul", ["h", "a"], ["y"]),
    ]
    gradient = Gradient(build(nodes, ["n", 8], tensors), ["w", "v"])
    found, _ = gradient.weights({"x": weights(2, 8)}, 0)
    assert set(found) == {"w", "v"}
    assert not gradient.unsupported


@pytest.mark.parametrize("model", [mlp(16), two_outputs(1), two_outputs(1000)], ids=["one", "two", "two unlike"])
def test_gradients_of_weights_foretell_the_error_of_the_outputs(model: onnx.ModelProto) -> None:
    """Noise on single elements, small enough to add up, makes on average what their gradients say."""
    feeds = {"x": weights(6, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)}
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 2}
    gradient, probe = Gradient(model, list(tensors)), Probe(model, tensors, [feeds])
    found = dict.fromkeys(tensors, 0.0)
    for seed in range(400):
        grads, signal = gradient.weights(feeds, seed)
        for name, grad in grads.items():
            found[name] += float(np.square(grad).sum()) / signal / 400
    for name, array in tensors.items():
        errors = []
        for i in range(array.size):
            moved = array.copy()
            moved.flat[i] *= 1.001
            errors.append(probe.error({name: moved}) / (0.001 * abs(float(array.flat[i]))))
        assert found[name] == pytest.approx(np.square(errors).sum(), rel=0.15), name


def test_samples_do_not_hide_each_other() -> None:
    """Two samples of opposite inputs: with one projection for both, their gradients would cancel."""
    model, x = build([node("MatMul", ["x", "w"], ["y"])], ["n", 4], {"w": weights(4, 3)}), weights(1, 4)
    gradient = Gradient(model, ["w"])
    power, signal = np.zeros((4, 3)), 0.0
    for seed in range(400):
        grads, s = gradient.weights({"x": np.concatenate([x, -x])}, seed)
        power, signal = power + np.square(grads["w"]), signal + s
    y = x @ numpy_helper.to_array(model.graph.initializer[0])
    assert signal / 400 == pytest.approx(2 * np.square(y).sum(), rel=1e-3)
    np.testing.assert_allclose(power / 400, np.broadcast_to(2 * np.square(x.T), (4, 3)), rtol=0.3)


@pytest.mark.parametrize(
    "ending",
    [
        [node("Softmax", ["s"], ["y"], axis=1)],
        [node("LogSoftmax", ["s"], ["p"], axis=1), node("Flatten", ["p"], ["y"])],
        [node("ArgMax", ["s"], ["y"], axis=1)],
    ],
)
def test_final_probabilities_and_decisions_are_left_out(ending: list[onnx.NodeProto]) -> None:
    """However sure the model is: with scores this large the Softmax is flat. A shift of all scores does not count."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["s"])]
    tensors, x = {"w": weights(8, 6), "v": 1e3 * weights(6, 5)}, {"x": weights(4, 8)}
    centred = [node("ReduceMean", ["s"], ["m"], axes=[1]), node("Sub", ["s", "m"], ["y"])]
    plain, signal = Gradient(build(nodes + centred, ["n", 8], tensors), ["w"]).weights(x, 0)
    ended, same = Gradient(build(nodes + ending, ["n", 8], tensors), ["w"]).weights(x, 0)
    np.testing.assert_allclose(ended["w"], plain["w"], rtol=1e-3)
    assert same == pytest.approx(signal)
    assert np.abs(plain["w"]).min() > 0


def test_rounding_counts_as_the_identity_up_to_saturation() -> None:
    """x -> Q -> DQ passes gradients on within the range of uint8 at this scale, [-6.4, 6.35]."""
    x = np.array([[-9, -5, 0.3, 5, 9]], np.float32)
    nodes = [
        node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node("MatMul", ["d", "w"], ["y"]),
    ]
    tensors = {"scale": np.float32(0.05), "zero": np.uint8(128), "w": weights(5, 1)}
    model = build(nodes, x.shape, tensors)
    shift(model, "x", x.shape)
    found = Gradient(model, ["shift of x"]).weights({"x": x}, 0)[0]["shift of x"][0]
    np.testing.assert_allclose(np.sign(found @ tensors["w"]) * found, tensors["w"][:, 0] * [0, 1, 1, 1, 0], rtol=1e-4)


def test_rounding_by_the_range_of_a_run_counts_as_the_identity() -> None:
    x = np.array([[-9, -5, 0.3, 5, 9]], np.float32)
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"]),
        node("Cast", ["q"], ["f"], to=FLOAT),
        node("Cast", ["zero"], ["z"], to=FLOAT),
        node("Sub", ["f", "z"], ["c"]),
        node("MatMul", ["c", "w"], ["h"]),
        node("Mul", ["h", "scale"], ["y"]),
    ]
    model = build(nodes, x.shape, {"w": weights(5, 1)})
    shift(model, "x", x.shape)
    found = Gradient(model, ["shift of x"]).weights({"x": x}, 0)[0]["shift of x"][0]
    np.testing.assert_allclose(np.abs(found), np.abs(weights(5, 1)[:, 0]), rtol=1e-4)


def test_half_precision_gives_the_same() -> None:
    def found(kind: int, dtype: type) -> np.ndarray:
        nodes = [
            node("Cast", ["x"], ["c"], to=kind),
            node("MatMul", ["c", "w"], ["h"]),
            node("Sigmoid", ["h"], ["a"]),
            node("MatMul", ["a", "v"], ["y"]),
        ]
        tensors = {"w": weights(8, 6).astype(dtype), "v": weights(6, 5).astype(dtype)}
        return Gradient(build(nodes, ["n", 8], tensors), ["w"]).weights({"x": weights(4, 8)}, 0)[0]["w"]

    half = found(TensorProto.FLOAT16, np.float16)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, found(FLOAT, np.float32), rtol=0.02, atol=0.01)


def tied(permutation: list[int] | None) -> onnx.ModelProto:
    """x[n, 8] -> MatMul w[8, 6] -> Relu -> MatMul, with a table [5, 6] that is turned first -> y[n, 5]."""
    turned = node("Transpose", ["table"], ["t"], **({} if permutation is None else {"perm": permutation}))
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), turned, node("MatMul", ["r", "t"], ["y"])]
    return build(nodes, ["n", 8], {"w": weights(8, 6), "table": weights(5, 6, seed=1)})


@pytest.mark.parametrize("permutation", [None, [1, 0]])
def test_a_turned_weight_is_as_good_as_one_that_was_turned_before(permutation: list[int] | None) -> None:
    x = {"x": weights(4, 8)}
    found, power = Gradient(tied(permutation), ["w", "table"]).weights(x, 0)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Relu", ["h"], ["r"]), node("MatMul", ["r", "t"], ["y"])]
    plain = build(nodes, ["n", 8], {"w": weights(8, 6), "t": weights(5, 6, seed=1).T.copy()})
    wanted, same = Gradient(plain, ["w", "t"]).weights(x, 0)
    np.testing.assert_allclose(found["w"], wanted["w"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["table"], wanted["t"].T, rtol=1e-5, atol=1e-6)
    assert power == pytest.approx(same)


@pytest.mark.parametrize("classes", [None, 1, 2])
@pytest.mark.parametrize("broken", [False, True])
def test_projections_of_a_few_rows_are_those_of_all(
    classes: int | None, broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    z = weights(3, 7, 11)
    if broken:
        z[1, 2, 3:5] = np.inf, np.nan
    found = []
    for at_once in (1 << 20, 16):
        monkeypatch.setattr(gradient, "_AT_ONCE", at_once)
        found.append(gradient._projection(np.random.default_rng(0), gradient.Start("z", z.shape, classes), z))
    (whole, power), (rows, sum_of_powers) = found
    assert np.array_equal(whole, rows)
    assert power == pytest.approx(sum_of_powers)
    centred = np.where(np.isfinite(z), z, 0).astype(np.float64)
    centred -= 0 if classes is None else centred.mean(classes, keepdims=True)
    assert power == pytest.approx(np.square(centred).sum())


def test_batches_of_any_size_run() -> None:
    gradient, x = Gradient(mlp(16), ["fc1"]), weights(6, 16)
    for size in (6, 2, 6):
        assert gradient.weights({"x": x[:size]}, 0)[0]["fc1"].shape == (16, 32)


def test_an_operator_without_a_rule_is_named() -> None:
    model = lstm()
    inside = [tensor.name for tensor in model.graph.initializer]
    model.graph.node[0].name = "recurrent"
    shift(model, "x", (1,))
    model.graph.node.append(node("Mul", ["y", "after"], ["z"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(32, np.float32), "after"))
    model.graph.output[0].name = "z"
    gradient = Gradient(model, ["shift of x", *inside, "after", "nowhere"])
    found, signal = gradient.weights({"x": weights(5, 1, 16)}, 0)
    assert list(found) == ["after"]
    assert signal > 0
    assert set(gradient.unsupported) == {"shift of x", *inside, "nowhere"}
    for name in ("shift of x", *inside):
        assert "LSTM" in gradient.unsupported[name]
        assert "recurrent" in gradient.unsupported[name]


def test_a_gradient_of_some_paths_is_no_gradient() -> None:
    """What a path with rules and one without share must not look less sensitive than it is."""
    nodes = [node("MatMul", ["x", "before"], ["h"]), node("MatMul", ["h", "ruled"], ["a"]),
             node("Mish", ["h"], ["m"]), node("MatMul", ["m", "behind"], ["b"]),
             node("Add", ["a", "b"], ["y"])]  # fmt: skip
    tensors = [numpy_helper.from_array(weights(16, 16, seed=i), n) for i, n in enumerate(("before", "ruled", "behind"))]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, 16]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    gradient = Gradient(model, ["before", "ruled", "behind"])
    found, _ = gradient.weights({"x": weights(4, 16)}, 0)
    assert set(found) == {"ruled", "behind"}
    assert "Mish" in gradient.unsupported["before"]


def test_a_branch_has_no_rule_but_breaks_nothing() -> None:
    model = branches()
    normalise(model)
    names = [tensor.name for tensor in model.graph.initializer]
    gradient = Gradient(model, names)
    assert gradient.weights({"x": weights(4, 16)}, 0) == ({}, 0.0)
    assert set(gradient.unsupported) == set(names)
    assert any("If" in why for why in gradient.unsupported.values())


def test_shapes_computed_at_run_time_are_no_obstacle() -> None:
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"], ["y"]),
    ]
    check(nodes, spread(2, 3, 4), {"zero": np.array([0]), "rest": np.array([-1])})


def test_a_model_that_does_not_run_on_the_feeds_says_so() -> None:
    with pytest.raises(Exception, match=r"(?i)dimension"):
        Gradient(mlp(16), ["fc1"]).weights({"x": weights(4, 17)}, 0)


needs_models = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)


@pytest.mark.slow
@needs_models
@pytest.mark.parametrize("name", ["resnet20"])
def test_real_models_err_as_gradients_of_their_weights_foretell(name: str) -> None:
    """White noise of 1 % on one weight after the other, against four projections of each of eight images."""
    model = onnx.load(realdata.MODELS / f"{name}.onnx")
    normalise(model)
    feeds = realdata.sensible_inputs(name)[0]
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) > 1}
    chosen = [list(tensors)[i] for i in np.linspace(0, len(tensors) - 1, 5).astype(int)]
    gradient, probe = Gradient(model, chosen), Probe(model, chosen, [feeds])
    power, signal = dict.fromkeys(chosen, 0.0), 0.0
    for seed in range(32):
        image = {key: array[seed % 8 :][:1] for key, array in feeds.items()}
        grads, s = gradient.weights(image, seed)
        power = {key: power[key] + float(np.square(grad, dtype=np.float64).sum()) for key, grad in grads.items()}
        signal += s
    ratios, rng = [], np.random.default_rng(0)
    for key in chosen:
        level = 0.01 * float(np.sqrt(np.square(tensors[key]).mean()))
        noisy = [tensors[key] + np.float32(level) * rng.standard_normal(tensors[key].shape, np.float32) for _ in "1234"]
        error = np.mean([probe.error({key: array}) ** 2 for array in noisy])
        ratios.append(level**2 * power[key] / signal / error)
    assert np.abs(np.log2(ratios)).max() < 1, ratios
    assert 0.8 < float(np.exp(np.mean(np.log(ratios)))) < 1.25, ratios


@pytest.mark.slow
@needs_models
@pytest.mark.parametrize(
    "name",
    [
        "lenet5", "resnet20", "squeezenet1.1", "mobilenet_v1_0.25", "mobilenet_v2",
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
    convolutions = [n for n in model.graph.node if n.op_type == "Conv"]
    shapes = {t.name: list(t.dims) for t in model.graph.initializer}
    chosen = {n.output[0]: shapes[n.input[1]] for n in (convolutions[0], convolutions[len(convolutions) // 2])}
    for value, (count, *_) in chosen.items():
        shift(model, value, (1, count, 1, 1))
    shifts = [f"shift of {value}" for value in chosen]
    project(model, feeds)
    found, _ = Gradient(model, [*shifts, "unit"]).weights(feeds, 0)
    run = session(opened(model, shifts))
    for shifted in shifts:
        largest = np.argsort(np.abs(found[shifted]), axis=None)[-6:]
        grads = found["unit"].item() * found[shifted].ravel()[largest]
        errors = []
        for step in (1e-4, 3e-4, 1e-3, 1e-2, 3e-2):  # long ones cross kinks, short ones drown in float32's rounding
            wanted = slopes(run, feeds | {shifted: np.zeros_like(found[shifted])}, shifted, largest.tolist(), step)
            errors.append(np.linalg.norm(wanted - grads) / np.linalg.norm(grads))
        assert min(errors) < 0.03, errors
