"""Models with one weight `w` each, in every way in which graphs carry weights and in every element type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from builders import FLOAT, model, weights
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
MS = "com.microsoft"
_WIDTH = 128

node = helper.make_node


def carrier(
    nodes: Sequence[onnx.NodeProto],
    tensors: dict[str, Array],
    opset: int = 21,
    outputs: Sequence[int | str] = ("n", _WIDTH),
) -> onnx.ModelProto:
    """x[n, 128] -> nodes -> y, with the runtime's own operators at hand."""
    made = model(nodes, tensors, {"x": ["n", _WIDTH]}, {"y": outputs}, opset, 10)
    made.opset_import.add(domain=MS, version=1)
    return made


def ids(made: onnx.ModelProto) -> onnx.ModelProto:
    """The same with token ids as its input."""
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.INT64, ["n", 8]))
    return made


def square(dtype: Any = np.float32, seed: int = 0) -> Array:
    """A matrix [128, 128]."""
    return weights(_WIDTH, _WIDTH, seed=seed, scale=0.1).astype(dtype)


def integers(low: int, high: int, dtype: Any, *shape: int) -> Array:
    """Integers in a bell, as quantizers leave them."""
    drawn = np.random.default_rng(0).normal((low + high) / 2, (high - low) / 8, shape or (_WIDTH, _WIDTH))
    return np.clip(np.rint(drawn), low, high).astype(dtype)


def _cast(dtype: Any) -> onnx.ModelProto:
    nodes = [node("Cast", ["w"], ["c"], to=FLOAT), node("MatMul", ["x", "c"], ["y"])]
    return carrier(nodes, {"w": square(dtype)})


def _moved(op: str, **attributes: Any) -> onnx.ModelProto:
    return carrier([node(op, ["w"], ["m"], **attributes), node("MatMul", ["x", "m"], ["y"])], {"w": square()})


def _reshaped() -> onnx.ModelProto:
    nodes = [node("Reshape", ["w", "shape"], ["m"]), node("MatMul", ["x", "m"], ["y"])]
    return carrier(nodes, {"w": square().reshape(8, 16, _WIDTH), "shape": np.array([_WIDTH, _WIDTH])})


def _gathered(dtype: Any) -> onnx.ModelProto:
    w = integers(-127, 127, dtype) if dtype is np.int8 else square(dtype)
    nodes = [node("Gather", ["w", "x"], ["g"]), node("Cast", ["g"], ["y"], to=FLOAT)]
    return ids(carrier(nodes, {"w": w}, outputs=["n", 8, _WIDTH]))


def tied() -> onnx.ModelProto:
    """The table of words is the last layer's weight, transposed."""
    nodes = [
        node("Gather", ["w", "x"], ["h"]),
        node("Transpose", ["w"], ["t"], perm=[1, 0]),
        node("MatMul", ["h", "t"], ["y"]),
    ]
    return ids(carrier(nodes, {"w": square()}, outputs=["n", 8, _WIDTH]))


def dequantized(dtype: Any, scales: Sequence[int], zero: bool = True, block: int = 0, axis: int = 1) -> onnx.ModelProto:
    """Weights behind DequantizeLinear."""
    limits = {"int8": (-127, 127), "uint8": (0, 255), "int4": (-8, 7), "uint4": (0, 15), "int32": (-9999, 9999)}
    name = np.dtype(dtype).name
    w = integers(*limits[name], dtype) if name in limits else square(dtype)
    scale = np.abs(weights(*scales, scale=0.01)) + np.float32(0.001)
    tensors = {"w": w, "scale": scale}
    if zero:
        tensors["zero"] = np.full(scales, sum(limits[name]) // 2 + 1 if name in limits else 0).astype(dtype)
    attributes = {"axis": axis} | ({"block_size": block} if block else {})
    nodes = [node("DequantizeLinear", list(tensors), ["d"], **attributes), node("MatMul", ["x", "d"], ["y"])]
    return carrier(nodes, tensors)


def function() -> onnx.ModelProto:
    """A model-local function multiplies by its argument."""
    made = carrier([node("Twice", ["x", "w"], ["y"], domain="own")], {"w": square()})
    body = [node("MatMul", ["a", "b"], ["c"]), node("Add", ["c", "c"], ["d"])]
    opsets = [helper.make_opsetid("", 21)]
    made.functions.append(helper.make_function("own", "Twice", ["a", "b"], ["d"], body, opsets))
    made.opset_import.add(domain="own", version=1)
    return made


def _sequence(nodes: Sequence[onnx.NodeProto], tensors: dict[str, Array], opset: int = 21) -> onnx.ModelProto:
    """x[n, 8, 128] -> nodes -> y[n, 8, 128]."""
    made = carrier(nodes, tensors, opset, ["n", 8, _WIDTH])
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, ["n", 8, _WIDTH]))
    return made


def attention() -> onnx.ModelProto:
    """The runtime's Attention, whose weights are those of queries, keys and values side by side."""
    nodes = [node("Attention", ["x", "w", "b"], ["y"], domain=MS, num_heads=4)]
    return _sequence(nodes, {"w": weights(_WIDTH, 3 * _WIDTH, scale=0.1), "b": weights(3 * _WIDTH, seed=1, scale=0.1)})


def multi_head() -> onnx.ModelProto:
    """The runtime's MultiHeadAttention behind a product."""
    nodes = [
        node("MatMul", ["x", "w"], ["q"]),
        node("MultiHeadAttention", ["q", "x", "x", "b"], ["y"], domain=MS, num_heads=4),
    ]
    return _sequence(nodes, {"w": square(), "b": weights(3 * _WIDTH, seed=1, scale=0.1)})


def standard_attention() -> onnx.ModelProto:
    """ONNX's Attention and RMSNormalization, of opset 23."""
    nodes = [
        node("RMSNormalization", ["x", "scale"], ["n"], axis=-1),
        node("MatMul", ["n", "w"], ["q"]),
        node("Attention", ["q", "n", "n"], ["y"], q_num_heads=4, kv_num_heads=4),
    ]
    return _sequence(nodes, {"scale": weights(_WIDTH, seed=1), "w": square()}, 23)


def skip_norm() -> onnx.ModelProto:
    """SkipLayerNormalization behind a product."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("SkipLayerNormalization", ["h", "x", "gamma", "beta", "bias"], ["y"], domain=MS),
    ]
    vectors = {name: weights(_WIDTH, seed=i) for i, name in enumerate(("gamma", "beta", "bias"))}
    return _sequence(nodes, {"w": square(), **vectors})


def embedding() -> onnx.ModelProto:
    """EmbedLayerNormalization: tables of words, positions and segments."""
    nodes = [
        node("Cast", ["x"], ["ids"], to=TensorProto.INT32),
        node("EmbedLayerNormalization", ["ids", "", "w", "places", "", "gamma", "beta"], ["y", "m"], domain=MS),
    ]
    tensors = {"w": weights(128, _WIDTH), "places": weights(16, _WIDTH, seed=1)}
    tensors |= {name: weights(_WIDTH, seed=i) for i, name in enumerate(("gamma", "beta"))}
    return ids(carrier(nodes, tensors, outputs=["n", 8, _WIDTH]))


def _body(inputs: Sequence[onnx.ValueInfoProto], nodes: Sequence[onnx.NodeProto], outputs: Sequence[Any]) -> Any:
    return helper.make_graph(nodes, "body", inputs, outputs, [numpy_helper.from_array(square(), "w")])


def loop() -> onnx.ModelProto:
    """Three times the same layer."""
    state = [helper.make_tensor_value_info(name, FLOAT, None) for name in ("before", "after")]
    body = _body(
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            state[0],
        ],
        [
            node("MatMul", ["before", "w"], ["h"]),
            node("Tanh", ["h"], ["after"]),
            node("Identity", ["go"], ["on"]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), state[1]],
    )
    return carrier([node("Loop", ["three", "", "x"], ["y"], body=body)], {"three": np.array(3)})


def loop_state() -> onnx.ModelProto:
    """Three times the same layer, whose weight goes in and out of every iteration."""
    made = loop()
    body = made.graph.node[0].attribute[0].g
    made.graph.initializer.append(numpy_helper.from_array(square(), "weight"))
    del body.initializer[:]
    body.input.append(helper.make_tensor_value_info("w", FLOAT, None))
    body.node.append(node("Identity", ["w"], ["same"]))
    body.output.append(helper.make_tensor_value_info("same", FLOAT, None))
    made.graph.node[0].input.append("weight")
    made.graph.node[0].output.append("last")
    return made


def scan_state() -> onnx.ModelProto:
    """A layer along the rows, whose weight goes in and out of every step."""
    made = scan()
    body = made.graph.node[0].attribute[0].g
    made.graph.initializer.append(numpy_helper.from_array(square(), "weight"))
    del body.initializer[:]
    body.input.insert(1, helper.make_tensor_value_info("w", FLOAT, [_WIDTH, _WIDTH]))
    body.node.append(node("Identity", ["w"], ["same"]))
    body.output.insert(1, helper.make_tensor_value_info("same", FLOAT, [_WIDTH, _WIDTH]))
    made.graph.node[0].input.insert(1, "weight")
    made.graph.node[0].output.insert(1, "end")
    return made


def scan() -> onnx.ModelProto:
    """A layer along the rows."""
    one, two, three, four = (helper.make_tensor_value_info(name, FLOAT, [_WIDTH]) for name in ("s", "row", "t", "out"))
    nodes = [
        node("MatMul", ["s", "w"], ["h"]),
        node("Add", ["h", "row"], ["a"]),
        node("Tanh", ["a"], ["t"]),
        node("Identity", ["t"], ["out"]),
    ]
    body = _body([one, two], nodes, [three, four])
    nodes = [node("Scan", ["start", "x"], ["last", "y"], body=body, num_scan_inputs=1)]
    return carrier(nodes, {"start": np.zeros(_WIDTH, np.float32)})


def branch() -> onnx.ModelProto:
    """A layer that only large inputs reach."""
    y, z = (helper.make_tensor_value_info(name, FLOAT, None) for name in ("yes", "no"))
    then = _body([], [node("MatMul", ["x", "w"], ["yes"])], [y])
    otherwise = helper.make_graph([node("Identity", ["x"], ["no"])], "else", [], [z])
    nodes = [
        node("ReduceMax", ["x"], ["most"], keepdims=0),
        node("Greater", ["most", "one"], ["large"]),
        node("If", ["large"], ["y"], then_branch=then, else_branch=otherwise),
    ]
    return carrier(nodes, {"one": np.float32(1)})


def nbits(bits: int = 4, zeros: bool = True, block: int = 32) -> onnx.ModelProto:
    """The runtime's product with blocks of small integers."""
    blocks = _WIDTH // block
    packed = integers(0, 15, np.uint8, _WIDTH, blocks, block)
    packed = (
        packed[..., ::2] | packed[..., 1::2] << 4 if bits == 4 else integers(0, 255, np.uint8, _WIDTH, blocks, block)
    )
    tensors = {"w": packed, "scales": np.abs(weights(_WIDTH * blocks, scale=0.01))}
    if zeros:
        tensors["zeros"] = integers(100, 155, np.uint8, _WIDTH * blocks * bits // 8)
    attributes = {"K": _WIDTH, "N": _WIDTH, "bits": bits, "block_size": block}
    return carrier([node("MatMulNBits", ["x", *tensors], ["y"], domain=MS, **attributes)], tensors)


def gather_blocks() -> onnx.ModelProto:
    """A table of words in blocks of small integers."""
    tensors = {
        "w": integers(0, 15, ml_dtypes.uint4, 128, _WIDTH),
        "scales": np.abs(weights(128, _WIDTH // 32, scale=0.01)) + np.float32(0.001),
        "zeros": integers(6, 9, ml_dtypes.uint4, 128, _WIDTH // 32),
    }
    attributes = {"gather_axis": 0, "quantize_axis": 1, "block_size": 32}
    nodes = [node("GatherBlockQuantized", ["w", "x", "scales", "zeros"], ["y"], domain=MS, **attributes)]
    return ids(carrier(nodes, tensors, outputs=["n", 8, _WIDTH]))


def recurrent(op: str, gates: int) -> onnx.ModelProto:
    """x[8, n, 128] through a recurrent layer."""
    tensors = {"w": weights(1, gates * 32, _WIDTH, scale=0.1), "r": weights(1, gates * 32, 32, seed=1, scale=0.1)}
    tensors["b"] = weights(1, 2 * gates * 32, seed=2, scale=0.1)
    made = carrier([node(op, ["x", *tensors], ["y"], hidden_size=32)], tensors, outputs=[8, 1, "n", 32])
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", FLOAT, [8, "n", _WIDTH]))
    return made


def transposed_conv() -> onnx.ModelProto:
    """x[n, 128] as images through ConvTranspose."""
    nodes = [node("Reshape", ["x", "image"], ["i"]), node("ConvTranspose", ["i", "w"], ["y"])]
    return carrier(nodes, {"image": np.array([-1, 8, 4, 4]), "w": weights(8, 8, 3, 3)}, outputs=["n", 8, 6, 6])


def _product(op: str, domain: str = MS, **attributes: Any) -> onnx.ModelProto:
    extra = {"bias": weights(_WIDTH, seed=1)} if op.endswith("Gemm") else {}
    nodes = [node(op, ["x", "w", *extra], ["y"], domain=domain, **attributes)]
    return carrier(nodes, {"w": square(), **extra})


CARRIERS: dict[str, Callable[[], onnx.ModelProto]] = {
    "matmul": lambda: _product("MatMul", ""),
    "cast_float16": lambda: _cast(np.float16),
    "cast_bfloat16": lambda: _cast(ml_dtypes.bfloat16),
    "cast_float8": lambda: _cast(ml_dtypes.float8_e4m3fn),
    "cast_int8": lambda: carrier(
        [node("Cast", ["w"], ["c"], to=FLOAT), node("Mul", ["c", "s"], ["d"]), node("MatMul", ["x", "d"], ["y"])],
        {"w": integers(-127, 127, np.int8), "s": np.float32(0.01)},
    ),
    "transpose": lambda: _moved("Transpose", perm=[1, 0]),
    "reshape": _reshaped,
    "tied": tied,
    "dequantize_tensor": lambda: dequantized(np.int8, ()),
    "dequantize_channel": lambda: dequantized(np.int8, (_WIDTH,)),
    "dequantize_uint8": lambda: dequantized(np.uint8, (_WIDTH,)),
    "dequantize_block": lambda: dequantized(np.int8, (_WIDTH // 16, _WIDTH), block=16, axis=0),
    "dequantize_int4": lambda: dequantized(ml_dtypes.int4, (_WIDTH,)),
    "dequantize_uint4_block": lambda: dequantized(ml_dtypes.uint4, (_WIDTH // 16, _WIDTH), block=16, axis=0),
    "dequantize_int32": lambda: dequantized(np.int32, (), zero=False),
    "dequantize_float8": lambda: dequantized(ml_dtypes.float8_e4m3fn, ()),
    "function": function,
    "attention": attention,
    "multi_head": multi_head,
    "standard_attention": standard_attention,
    "fused_matmul": lambda: _product("FusedMatMul", transB=1, alpha=0.5),
    "fused_gemm": lambda: _product("FusedGemm", activation="Relu", transB=1),
    "skip_norm": skip_norm,
    "embedding": embedding,
    "loop": loop,
    "scan": scan,
    "loop_state": loop_state,
    "scan_state": scan_state,
    "branch": branch,
    "nbits": nbits,
    "nbits_8": lambda: nbits(8, zeros=False),
    "gather_blocks": gather_blocks,
    "lstm": lambda: recurrent("LSTM", 4),
    "gru": lambda: recurrent("GRU", 3),
    "rnn": lambda: recurrent("RNN", 1),
    "transposed_conv": transposed_conv,
    "gather_bfloat16": lambda: _gathered(ml_dtypes.bfloat16),
    "gather_float16": lambda: _gathered(np.float16),
    "gather_int8": lambda: _gathered(np.int8),
    "einsum": lambda: carrier([node("Einsum", ["x", "w"], ["y"], equation="ni, io -> no")], {"w": square()}),
    "einsum_turned": lambda: carrier([node("Einsum", ["x", "w"], ["y"], equation="ni,oi->no")], {"w": square()}),
}
"""By name; the main weight is `w`."""
