"""Small models for tests, one line each to ask for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT


def weights(*shape: int, seed: int = 0, scale: float = 1.0) -> np.ndarray[Any, Any]:
    """Laplace noise in float32: what trained weights look like."""
    return (scale * np.random.default_rng(seed).laplace(size=shape)).astype(np.float32)


@st.composite
def sparse(draw: st.DrawFn, most: int = 2000) -> np.ndarray[Any, Any]:
    """int32[size], any integers, of any density from 0 to 1."""
    size = draw(st.integers(1, most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = rng.integers(-(2**31), 2**31, size) >> rng.integers(0, 31, size)
    return np.where(rng.random(size) < draw(st.floats(0, 1)), values, 0).astype(np.int32)


def model(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, np.ndarray[Any, Any]],
    inputs: dict[str, Sequence[int | str]],
    outputs: dict[str, Sequence[int | str]],
    opset: int = 17,
    ir_version: int = 8,
) -> onnx.ModelProto:
    """A model of float inputs and outputs."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


def tuning_case(folder: Path, width: int, samples: int) -> tuple[Path, Path]:
    """Files of a small network, and of samples for it."""
    onnx.save(mlp(width), folder / "small.onnx")
    np.save(folder / "x.npy", weights(samples, width, seed=5))
    return folder / "small.onnx", folder / "x.npy"


def mlp(width: int = 64, seed: int = 0) -> onnx.ModelProto:
    """x[n, width] -> MatMul -> Relu -> Gemm -> y[n, 10]."""
    nodes = [
        helper.make_node("MatMul", ["x", "fc1"], ["h"], "mm"),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "fc2", "b2"], ["y"], "gemm", transB=1),
    ]
    tensors = {
        "fc1": weights(width, 2 * width, seed=seed),
        "fc2": weights(10, 2 * width, seed=seed + 1),
        "b2": weights(10, seed=seed + 2),
    }
    return model(nodes, tensors, {"x": ["n", width]}, {"y": ["n", 10]})


def cnn(seed: int = 0, norm: bool = False) -> onnx.ModelProto:
    """x[n, 3, 16, 16] -> Conv (-> BatchNormalization) -> Relu -> depthwise Conv -> ConvTranspose -> y."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["n1" if norm else "c1"], ["r1"], "relu"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "depthwise", group=16, strides=[2, 2]),
        helper.make_node("ConvTranspose", ["c2", "w3"], ["y"], "up", strides=[2, 2]),
    ]
    tensors = {
        "w1": weights(16, 3, 3, 3, seed=seed),
        "b1": weights(16, seed=seed + 1),
        "w2": weights(16, 1, 3, 3, seed=seed + 2),
        "w3": weights(16, 4, 2, 2, seed=seed + 3),
    }
    if norm:
        nodes.insert(1, helper.make_node("BatchNormalization", ["c1", "g", "b", "m", "v"], ["n1"], "norm"))
        tensors |= {name: weights(16, seed=seed + 4 + i) for i, name in enumerate("gbm")}
        tensors["v"] = np.abs(weights(16, seed=seed + 8)) + np.float32(0.1)
    return model(nodes, tensors, {"x": ["n", 3, 16, 16]}, {"y": ["n", 4, "h", "w"]})


def branches() -> onnx.ModelProto:
    """If with a weight called ``w`` in each branch, one of them a Constant node."""
    value = helper.make_tensor_value_info("y", FLOAT, ["n", 16])
    then_graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "then",
        [],
        [value],
        [numpy_helper.from_array(weights(16, 16, seed=1), "w")],
    )
    constant = numpy_helper.from_array(weights(16, 16, seed=2))
    else_graph = helper.make_graph(
        [helper.make_node("Constant", [], ["w"], value=constant), helper.make_node("MatMul", ["x", "w"], ["z"])],
        "else",
        [],
        [helper.make_tensor_value_info("z", FLOAT, ["n", 16])],
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["out"], then_branch=then_graph, else_branch=else_graph),
    ]
    return model(nodes, {"zero": np.float32(0)}, {"x": ["n", 16]}, {"out": ["n", 16]})


def zipmap() -> onnx.ModelProto:
    """Scores at the border as a sequence of maps, as scikit-learn exporters write them, beside the plain scores."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("ZipMap", ["scores"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=list(range(16))),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, ["n", 64])],
        [
            helper.make_tensor_value_info("scores", FLOAT, ["n", 16]),
            helper.make_value_info(
                "maps",
                helper.make_sequence_type_proto(
                    helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(FLOAT, []))
                ),
            ),
        ],
        [numpy_helper.from_array(weights(64, 16), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def lstm() -> onnx.ModelProto:
    """x[steps, 1, 16] -> LSTM with 32 units -> y."""
    nodes = [helper.make_node("LSTM", ["x", "W", "R", "B"], ["y"], hidden_size=32)]
    tensors = {
        "W": weights(1, 128, 16, scale=0.1),
        "R": weights(1, 128, 32, seed=1, scale=0.1),
        "B": weights(1, 256, seed=2, scale=0.1),
    }
    return model(nodes, tensors, {"x": ["t", 1, 16]}, {"y": ["t", 1, 1, 32]})


def constant_nodes() -> onnx.ModelProto:
    """All weights in Constant nodes, one of them reached through Transpose."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(32, 16))),
        helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
        helper.make_node("MatMul", ["x", "wt"], ["y"]),
    ]
    return model(nodes, {}, {"x": ["n", 16]}, {"y": ["n", 32]})


def old_inputs() -> onnx.ModelProto:
    """IR version 3: initializers are listed as inputs."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    return model(nodes, {"w": weights(64, 32)}, {"x": [1, 64], "w": [64, 32]}, {"y": [1, 32]}, opset=8, ir_version=3)


def decaying(outputs: int, inputs: int, power: float) -> np.ndarray[Any, Any]:
    """A matrix whose singular values are 1, 2^-p, 3^-p, ..."""
    rng = np.random.default_rng(outputs)
    u, _, v = np.linalg.svd(rng.standard_normal((outputs, inputs)), full_matrices=False)
    return (u * (np.arange(1, 1 + len(v)) ** -power) @ v).astype(np.float32)


def network(power: float) -> onnx.ModelProto:
    """x[n, 192] -> a wide layer -> Relu -> y[n, 10]; the wide layer is noise where its spectrum does not decay."""
    nodes = [
        helper.make_node("Gemm", ["x", "wide", "b"], ["h"], "gemm1", transB=1),
        helper.make_node("Relu", ["h"], ["a"], "relu"),
        helper.make_node("Gemm", ["a", "narrow"], ["y"], "gemm2", transB=1),
    ]
    wide = decaying(256, 192, power) if power else weights(256, 192)
    tensors = {"wide": wide, "b": weights(256, scale=0.01), "narrow": weights(10, 256, seed=1)}
    return model(nodes, tensors, {"x": ["n", 192]}, {"y": ["n", 10]})


def residual() -> onnx.ModelProto:
    """x[n, 8, 12, 12] -> Conv, Relu -> Conv -> Add, Relu -> MaxPool -> Pad -> Conv, Clip -> mean -> Gemm -> y."""
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["s"], "add"),
        helper.make_node("Relu", ["s"], ["r2"], "relu2"),
        helper.make_node("MaxPool", ["r2"], ["p"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Pad", ["p", "pads"], ["q"], "pad"),
        helper.make_node("Conv", ["q", "w3"], ["c3"], "depthwise", group=8),
        helper.make_node("Clip", ["c3", "zero", "six"], ["r3"], "clip"),
        helper.make_node("GlobalAveragePool", ["r3"], ["g"], "mean"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w4", "b4"], ["y"], "gemm", transB=1),
    ]
    tensors = {
        "w1": weights(8, 8, 3, 3, scale=0.1), "b1": weights(8, seed=1, scale=0.1),
        "w2": weights(8, 8, 3, 3, seed=2, scale=0.1), "b2": weights(8, seed=3, scale=0.1),
        "w3": weights(8, 1, 3, 3, seed=4, scale=0.3), "w4": weights(10, 8, seed=5), "b4": weights(10, seed=6),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "zero": np.float32(0), "six": np.float32(6),
    }  # fmt: skip
    return model(nodes, tensors, {"x": ["n", 8, 12, 12]}, {"y": ["n", 10]})


def prelu(slopes: tuple[int, ...] = (8, 1, 1), opset: int = 13, outputs: int = 8) -> onnx.ModelProto:
    """conv -> prelu "bent" -> conv, with slopes below 0 and above 1."""
    rng = np.random.default_rng(0)
    w1, w2 = (rng.standard_normal(s).astype(np.float32) for s in ((outputs, 3, 3, 3), (4, outputs, 3, 3)))
    slope = rng.uniform(-1, 2, slopes).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["straight"], "first"),
        helper.make_node("PRelu", ["straight", "slope"], ["bent"], "prelu"),
        helper.make_node("Conv", ["bent", "w2"], ["y"], "second"),
    ]
    tensors = [numpy_helper.from_array(a, name) for a, name in ((w1, "w1"), (slope, "slope"), (w2, "w2"))]
    x, y = (helper.make_tensor_value_info(name, FLOAT, ["n", c, "h", "w"]) for name, c in (("x", 3), ("y", 4)))
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


ALL = {
    "mlp": mlp,
    "cnn": cnn,
    "cnn_norm": lambda: cnn(norm=True),
    "branches": branches,
    "zipmap": zipmap,
    "lstm": lstm,
    "constant_nodes": constant_nodes,
    "old_inputs": old_inputs,
}
"""Every builder by name."""
