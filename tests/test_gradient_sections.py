"""Gradients where not all activations of a batch fit in memory: the forward model runs again, section by section."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from builders import mlp, weights
from differences import build, node
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime import OrtValue

from common import realdata
from onnxopt.graph import normalise
from onnxopt.graph.autodiff import Gradient
from onnxopt.graph.autodiff.backward import nodes_of
from onnxopt.graph.autodiff.sections import divided

OPERATORS = ("matmul", "tanh", "mul", "add", "softmax")
ROOMS = (1e3, 1.0)
"""Bytes: for some of the activations here, and for none."""


def same(model: onnx.ModelProto, paths: list[str], x: np.ndarray, room: float) -> None:
    """Checks that the gradients do not depend on the room."""
    whole, parts = Gradient(model, paths), Gradient(model, paths, room=room)
    wanted, signal = whole.weights({"x": x}, 0)
    found, power = parts.weights({"x": x}, 0)
    assert power == pytest.approx(signal)
    assert parts.unsupported == whole.unsupported
    assert found.keys() == wanted.keys()
    for path, array in wanted.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-4, atol=1e-5, err_msg=path)


@given(st.lists(st.tuples(st.sampled_from(OPERATORS), st.integers(0, 9), st.integers(0, 9)),
                min_size=1, max_size=24))  # fmt: skip
def test_any_graph_has_the_same_gradients(steps: list[tuple[str, int, int]]) -> None:
    """Values are read by whatever comes later, near or far."""
    values, nodes, tensors = ["x"], list[onnx.NodeProto](), dict[str, np.ndarray]()
    for index, (op, one, other) in enumerate(steps):
        first, second, made = values[-1 - one % len(values)], values[-1 - other % len(values)], f"v{index}"
        if op == "matmul":
            tensors[f"w{index}"] = weights(8, 8, seed=index)
            nodes.append(node("MatMul", [first, f"w{index}"], [made]))
        elif op in ("mul", "add"):
            nodes.append(node(op.capitalize(), [first, second], [made]))
        else:
            nodes.append(node(op.capitalize(), [first], [made]))
        values.append(made)
    tensors["last"] = weights(8, 8, seed=99)
    nodes += [node("MatMul", [values[-1], "last"], ["z"]), node("Add", ["z", values[len(values) // 2]], ["y"])]
    for room in ROOMS:
        same(build(nodes, ["n", 8], tensors), sorted(tensors), weights(3, 8), room)


def test_convolutions_in_blocks_have_the_same_gradients() -> None:
    """Whose values shape inference does not know."""
    tensors = {name: weights(16, 16, 3, 3, seed=seed) / 12 for seed, name in enumerate("abcd")}
    nodes, last = list[onnx.NodeProto](), "x"
    for name in tensors:
        nodes += [node("Conv", [last, name], [f"c{name}"], pads=[1, 1, 1, 1]), node("Relu", [f"c{name}"], [f"r{name}"])]
        nodes.append(node("Add", [f"r{name}", last], [f"s{name}"]))
        last = f"s{name}"
    nodes.append(node("GlobalAveragePool", [last], ["y"]))
    model = build(nodes, ["n", 16, 6, 6], tensors)
    model.graph.input.extend(onnx.helper.make_tensor_value_info(name, 1, [16, 16, 3, 3]) for name in tensors)
    feeds = {"x": weights(2, 16, 6, 6), **tensors}
    given_ = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    found = [
        Gradient(model, list(tensors), room=room).pulled_back(
            given_, lambda starts, _: {start.name: np.ones(start.shape, np.float32) for start in starts}
        )
        for room in (1e9, 5e4, 1.0)
    ]
    for path in tensors:
        for other in found[1:]:
            np.testing.assert_allclose(other[path], found[0][path], rtol=1e-4, atol=1e-5)


def test_less_is_in_memory_at_a_time() -> None:
    """A chain of 64 values needs about two roots of 64 of them (Chen et al. 2016)."""
    chain = [node("Tanh", [f"v{index}"], [f"v{index + 1}"]) for index in range(64)]
    nodes = nodes_of(build(chain, ["n", 8], outputs=("v64",)))
    sizes = {f"v{index}": 100.0 for index in range(1, 65)}
    assert divided(nodes, sizes, sizes, room=6400).count == 1
    assert divided(nodes, sizes, sizes, room=3400).count == 2
    least = divided(nodes, sizes, sizes, room=0)
    assert least.peak(sizes) <= 1600
    assert divided(nodes, sizes, sizes, room=least.peak(sizes)).count == least.count


def test_chance_is_not_asked_twice() -> None:
    """The gradient of ``w`` in ``tanh(tanh(... r w))`` has the ``r`` in it that the outputs have."""
    depth = 8
    nodes = [node("Mul", ["x", "b"], ["h0"])]
    nodes += [node("Tanh", [f"h{index}"], [f"h{index + 1}" if index + 1 < depth else "h"]) for index in range(depth)]
    nodes.append(node("RandomNormal", [], ["r"], shape=[1, 8], scale=0.3))
    nodes += [node("Mul", ["h", "zero"], ["none"]), node("Add", ["r", "none"], ["s"]), node("Mul", ["s", "w"], ["t0"])]
    nodes += [node("Tanh", [f"t{index}"], [f"t{index + 1}" if index + 1 < depth else "y"]) for index in range(depth)]
    seen = dict[str, np.ndarray]()

    def cotangents(starts: object, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.update(values)
        return {"y": np.ones((1, 8), np.float32)}

    x, ones = weights(1, 8), np.ones((1, 8), np.float32)
    gradient = Gradient(build(nodes, [1, 8], {"w": ones, "b": ones, "zero": 0 * ones}), ["w", "b"], room=1.0)
    found = gradient.pulled_back({"x": OrtValue.ortvalue_from_numpy(x)}, cotangents)  # type: ignore[arg-type]
    value, slope = seen["y"].astype(np.float64), np.ones((1, 8))
    for _ in range(depth):
        slope *= 1 - value**2
        value = np.arctanh(value)
    np.testing.assert_allclose(found["w"], slope * value, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_cut_has_gradients_all_the_same() -> None:
    model = mlp(16)
    same(model, [tensor.name for tensor in model.graph.initializer], weights(4, 16), 1.0)


@pytest.mark.slow
@pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)
@pytest.mark.parametrize("name", ["resnet20", "squeezenet1.1", "mobilenet_v2"])
def test_real_models_have_the_same_gradients(name: str) -> None:
    model = onnx.load(realdata.path_of(name))
    normalise(model)
    paths = [node.input[1] for node in model.graph.node if node.op_type == "Conv"]
    feeds = {key: array[:2] for key, array in realdata.sensible_inputs(name)[0].items()}
    wanted, _ = Gradient(model, paths).weights(feeds, 0)
    found, _ = Gradient(model, paths, room=4e6).weights(feeds, 0)
    assert found.keys() == wanted.keys() == set(paths)
    for path, array in wanted.items():
        np.testing.assert_allclose(found[path], array, rtol=1e-3, atol=1e-4 * float(np.abs(array).max()))
