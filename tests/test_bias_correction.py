"""What quantizing shifts is found, layer by layer, whatever layers before it do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from builders import model, weights
from onnx import helper, numpy_helper

from onnxopt.data import quiet_session
from onnxopt.graph import exposing
from onnxopt.graph.bias_correction import bias_corrections

Array = np.ndarray[Any, Any]
BIASES = {"b1": 8, "b2": 8, "b3": 12, "b4": 5}


def net() -> onnx.ModelProto:
    """x[n, 3, 8, 8] -> Conv -> Relu -> depthwise Conv -> Clip -> Conv -> pool -> Gemm -> y[n, 5]."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], group=8),
        helper.make_node("Clip", ["c2", "zero", "six"], ["r2"]),
        helper.make_node("Conv", ["r2", "w3", "b3"], ["c3"]),
        helper.make_node("GlobalAveragePool", ["c3"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], transB=1),
    ]
    shapes = {"w1": (8, 3, 3, 3), "w2": (8, 1, 3, 3), "w3": (12, 8, 1, 1), "w4": (5, 12)}
    tensors = {name: weights(*shape, seed=i, scale=0.3) for i, (name, shape) in enumerate(shapes.items())}
    tensors |= {name: weights(size, seed=size, scale=0.3) for name, size in BIASES.items()}
    tensors |= {"zero": np.float32(0), "six": np.float32(6)}
    return model(nodes, tensors, {"x": ["n", 3, 8, 8]}, {"y": ["n", 5]})


def changed(made: onnx.ModelProto, tensors: Mapping[str, Array]) -> onnx.ModelProto:
    """With these tensors in place of its own."""
    other = onnx.ModelProto()
    other.CopyFrom(made)
    for tensor in other.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(numpy_helper.from_array(tensors[tensor.name].astype(np.float32), tensor.name))
    return other


def tensors(made: onnx.ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in made.graph.initializer}


def corrected(made: onnx.ModelProto, corrections: Mapping[str, Array]) -> onnx.ModelProto:
    return changed(made, {name: tensors(made)[name] + change for name, change in corrections.items()})


def rounded(made: onnx.ModelProto, value: str, scale: float, zero: int = 0) -> onnx.ModelProto:
    """The value in 8 bits, under its own name, and what it was before under ``value@float``."""
    other = changed(made, {})
    grid = [f"{value}@scale", f"{value}@zero"]
    for name, array in zip(grid, (np.float32(scale), np.uint8(zero)), strict=True):
        other.graph.initializer.append(numpy_helper.from_array(np.asarray(array), name))
    at = next(i for i, node in enumerate(other.graph.node) if value in node.output)
    other.graph.node[at].output[0] = f"{value}@float"
    for i, (op, x, y) in enumerate(
        [("QuantizeLinear", f"{value}@float", f"{value}@q"), ("DequantizeLinear", f"{value}@q", value)]
    ):
        other.graph.node.insert(at + 1 + i, helper.make_node(op, [x, *grid], [y]))
    return other


X = np.random.default_rng(0).normal(size=(24, 3, 8, 8)).astype(np.float32)


def pieces() -> Iterable[Mapping[str, Array]]:
    return [{"x": X[:5]}, {"x": X[5:]}]


def run(made: onnx.ModelProto, value: str = "y") -> Array:
    return np.asarray(quiet_session(exposing(made, [value])).run(None, {"x": X})[0])


def mean_error(made: onnx.ModelProto, quantized: onnx.ModelProto, value: str) -> float:
    error = (run(quantized, value) - run(made, value)).mean((0, 2, 3) if value[0] == "c" else 0)
    return float(np.abs(error).max())


def test_planted_biases_are_found_in_every_layer() -> None:
    made = net()
    planted = {name: weights(size, seed=100 + size, scale=0.1) for name, size in BIASES.items()}
    shifted = corrected(made, planted)
    for sweeps in (1, 3):
        found = bias_corrections(made, shifted, pieces, sweeps)
        assert set(found) == set(BIASES)
        for name, change in found.items():
            assert change.dtype == np.float32
            np.testing.assert_allclose(change, -planted[name], atol=2e-6)


def test_coarse_weights_make_less_noise_and_no_shift() -> None:
    made = net()
    coarse = changed(made, {name: np.rint(tensors(made)[name] / 0.25) * 0.25 for name in ("w1", "w2", "w3", "w4")})
    better = corrected(coarse, bias_corrections(made, coarse, pieces))
    for value in ("c1", "c2", "c3", "y"):
        assert mean_error(made, better, value) < 0.5 * mean_error(made, coarse, value)
    assert np.square(run(better) - run(made)).mean() < 0.5 * np.square(run(coarse) - run(made)).mean()


@pytest.mark.parametrize("value", ["r1", "c1", "f"])
def test_clipped_values_are_made_up_for(value: str) -> None:
    """Whether they are the next layer's input, or what a layer gives: then it is before they are rounded."""
    made = net()
    values = run(made, value)
    low = 0 if value == "r1" else 128
    quantized = rounded(made, value, float(np.abs(values).max()) / 600, low)
    better = corrected(quantized, bias_corrections(made, quantized, pieces))
    after = {"r1": "c2", "c1": "c2", "f": "y"}[value]
    if value == "c1":  # between a layer and its rectifier the error is nobody's own
        assert mean_error(made, better, after) == pytest.approx(mean_error(made, quantized, after), rel=0.2)
    else:
        assert mean_error(made, better, after) < 0.2 * mean_error(made, quantized, after)


def test_layers_whose_outputs_are_rounded_are_corrected_before() -> None:
    made = net()
    planted = {name: weights(size, seed=100 + size, scale=0.1) for name, size in BIASES.items()}
    quantized = corrected(made, planted)
    for value in ("c1", "c3", "y"):
        quantized = rounded(quantized, value, float(np.abs(run(made, value)).max()) / 100, 128)
    found = bias_corrections(made, quantized, pieces)
    np.testing.assert_allclose(found["b1"], -planted["b1"], atol=2e-6)
    np.testing.assert_allclose(found["b2"], -planted["b2"], atol=2e-6)
    np.testing.assert_allclose(found["b4"], -planted["b4"], atol=2e-6)


def test_pieces_are_the_same_as_all_at_once() -> None:
    made = net()
    coarse = changed(made, {"w2": np.rint(tensors(made)["w2"] / 0.25) * 0.25})
    once = bias_corrections(made, coarse, lambda: [{"x": X}])
    for name, change in bias_corrections(made, coarse, pieces).items():
        np.testing.assert_allclose(change, once[name], atol=1e-5)


def test_a_bias_that_others_use_is_left() -> None:
    made = net()
    made.graph.node[2].input[2] = "b1"
    del made.graph.node[7].input[2]
    assert set(bias_corrections(made, made, pieces)) == {"b3"}


def test_nothing_to_correct() -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": ["n", 3, 8, 8]}, {"y": ["n", 3, 8, 8]})
    assert bias_corrections(made, made, pieces) == {}
    assert all(not change.any() for change in bias_corrections(net(), net(), pieces).values())
