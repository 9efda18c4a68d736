"""Gradients by central differences, for tests of what differentiates graphs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from onnxopt.graph.autodiff import Gradient

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
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 21 else 10)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(model.SerializeToString(), options)


def spread(*shape: int, seed: int = 0, low: float = -2.0, high: float = 2.0) -> Array:
    """Numbers further apart than a few steps, and as far from zero where the range is symmetric: no kink is near."""
    count = int(np.prod(shape)) + int(np.prod(shape)) % 2
    values = np.random.default_rng(seed).permutation(np.linspace(low, high, count))
    return values[: int(np.prod(shape))].reshape(shape).astype(np.float32)


def project(model: onnx.ModelProto, feeds: dict[str, Array]) -> None:
    """Makes the model's one output the scalar ``sum r y + unit``, so that one pass is exact.

    The gradient of the weight ``unit`` is the sign that the pass multiplies all gradients with.
    """
    outputs = [value.name for value in model.graph.output]
    sizes = [array.size for array in session(model).run(outputs, feeds)]
    del model.graph.output[:]
    rng = np.random.default_rng(7)
    for i, (name, size) in enumerate(zip(outputs, sizes, strict=True)):
        r = rng.uniform(0.5, 1.5, (size, 1)) * rng.choice([-1, 1], (size, 1))
        model.graph.initializer.append(numpy_helper.from_array(r.astype(np.float32), f"r{i}"))
        model.graph.node.append(node("Reshape", [name, "row"], [f"row{i}"]))
        model.graph.node.append(node("MatMul", [f"row{i}", f"r{i}"], [f"sum{i}"]))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "row"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((1, 1), np.float32), "unit"))
    model.graph.node.append(node("Sum", [*(f"sum{i}" for i in range(len(outputs))), "unit"], ["loss"]))
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, [1, 1]))


def shift(model: onnx.ModelProto, name: str, shape: Sequence[int]) -> None:
    """Adds the weight ``shift of {name}``, all zeros, to the value `name` where it is read: both have one gradient."""
    for reader in model.graph.node:
        reader.input[:] = [f"{name} shifted" if i == name else i for i in reader.input]
    makers = [i for i, maker in enumerate(model.graph.node) if name in maker.output]
    added = node("Add", [name, f"shift of {name}"], [f"{name} shifted"])
    model.graph.node.insert(makers[0] + 1 if makers else 0, added)
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(shape, np.float32), f"shift of {name}"))


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


def opened(model: onnx.ModelProto, names: Iterable[str]) -> onnx.ModelProto:
    """The model with these initializers fed or not, as one likes."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    for tensor in model.graph.initializer:
        if tensor.name in names:
            result.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return result


def floats(model: onnx.ModelProto) -> dict[str, Array]:
    """The model's float initializers."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == TensorProto.FLOAT}


def check(
    nodes: Sequence[onnx.NodeProto],
    x: Array,
    tensors: dict[str, Any] | None = None,
    opset: int = 17,
    fixed: Collection[str] = (),
) -> None:
    """Gradients of what `nodes` make of x are those of central differences: with respect to x and to each float tensor
    but those in `fixed`, which have none."""
    model = build(nodes, x.shape, tensors, opset=opset)
    shift(model, "x", x.shape)
    weights = floats(model)
    project(model, {"x": x})
    gradient = Gradient(model, [*weights, "unit"])
    found, _ = gradient.weights({"x": x}, 0)
    assert set(gradient.unsupported) == set(fixed) & set(weights)
    sign = found.pop("unit").item()
    assert sign in (-1, 1)
    run = session(opened(model, found))
    for name, grad in found.items():
        wanted = slopes(run, {"x": x, name: weights[name]}, name)
        np.testing.assert_allclose(sign * grad, wanted, rtol=2e-2, atol=4e-3 * np.abs(wanted).max(), err_msg=name)
