"""Gradients by central differences, for tests of what differentiates graphs."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph.gradient import Gradient

Array = np.ndarray[Any, Any]
node = helper.make_node
STEP = 0.004


def build(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    tensors: dict[str, Any] | None = None,
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
) -> onnx.ModelProto:
    """A model of a float input ``x``; what its outputs are the runtime finds out."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in (tensors or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def spread(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers further apart than a few steps, and as far from zero where the range is symmetric: no kink is near."""
    count = int(np.prod(shape)) + int(np.prod(shape)) % 2
    values = np.random.default_rng(seed).permutation(np.linspace(low, high, count))
    return values[: int(np.prod(shape))].reshape(shape).astype(np.float32)


def project(model: onnx.ModelProto, also: str, feeds: dict[str, Array]) -> None:
    """Makes the model's one output the scalar ``sum r y + sum s also``, so that one pass is exact and signs count."""
    outputs = [value.name for value in model.graph.output]
    sizes = [array.size for array in session(model).run(outputs, feeds)]
    del model.graph.output[:]
    rng = np.random.default_rng(7)
    for i, (name, size) in enumerate(zip((*outputs, also), (*sizes, feeds[also].size), strict=True)):
        r = rng.uniform(0.5, 1.5, (size, 1)) * rng.choice([-1, 1], (size, 1))
        model.graph.initializer.append(numpy_helper.from_array(r.astype(np.float32), f"r{i}"))
        model.graph.node.append(node("Reshape", [name, "row"], [f"row{i}"]))
        model.graph.node.append(node("MatMul", [f"row{i}", f"r{i}"], [f"sum{i}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "row"))
    model.graph.node.append(node("Sum", [f"sum{i}" for i in range(len(outputs) + 1)], ["loss"]))
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, [1, 1]))


def slopes(
    run: onnxruntime.InferenceSession,
    feeds: dict[str, Array],
    name: str,
    elements: Sequence[int] | None = None,
    step: float = STEP,
) -> Array:
    """The scalar output's derivatives for these elements of the input `name` (all of them, in its shape)."""

    def at(element: int, shift: float) -> float:
        moved = feeds[name].copy()
        moved.flat[element] += np.float32(shift)
        return float(run.run(None, {**feeds, name: moved})[0].item())

    chosen = range(feeds[name].size) if elements is None else elements
    found = np.array([(at(i, step) - at(i, -step)) / (2 * step) for i in chosen])
    return found.reshape(feeds[name].shape) if elements is None else found


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with its initializers fed or not, as one likes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in model.graph.initializer:
        result.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return result


def check(
    nodes: Sequence[onnx.NodeProto],
    x: Array,
    tensors: dict[str, Any] | None = None,
    opset: int = 17,
    fixed: Collection[str] = (),
) -> None:
    """Gradients of what `nodes` make of x are those of central differences: of x, by channel and by position, and of
    each float tensor but those in `fixed`, which have none."""
    model = build(nodes, x.shape, tensors, opset=opset)
    weights = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}
    project(model, "x", {"x": x})
    expected = np.square(slopes(session(model), {"x": x}, "x"))
    gradient = Gradient(model, ["x"], weights=list(weights))
    power, positions = gradient.power({"x": x}, 0), gradient.positions({"x": x}, 0)
    assert not gradient.unsupported
    axis = 1 if x.ndim > 2 else x.ndim - 1
    others = tuple(i for i in range(x.ndim) if i != axis)
    close = {"rtol": 2e-2, "atol": 2e-3 * expected.max()}
    np.testing.assert_allclose(power["x"], expected.sum(others), **close)
    np.testing.assert_allclose(positions["x"], expected.sum(axis, keepdims=True), **close)

    found, _ = gradient.weights({"x": x}, 0)
    assert set(gradient.unsupported) == set(fixed) & set(weights)
    run = session(opened(model))
    wanted = {name: slopes(run, {"x": x, name: weights[name]}, name) for name in found}
    sign = np.sign(sum(np.vdot(found[name], wanted[name]) for name in found))  # of the projection, one for all
    for name in found:
        np.testing.assert_allclose(sign * found[name], wanted[name], rtol=2e-2, atol=4e-3 * np.abs(wanted[name]).max())
