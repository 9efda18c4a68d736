"""Proposals of nodes with weights: what passes quantize, factorise and rewrite."""

from __future__ import annotations

from typing import Any

import numpy as np

from fuzzing.growing import Growth, Value


def _channels(g: Growth) -> int:
    return int(g.one_of((3, 8, 12, 16, 24, 32)))


def _of_rank(g: Growth, *ranks: int) -> Value | None:
    return g.pick(lambda v: v.is_float and v.array.ndim in ranks and v.array.size > 0)


def matmul(g: Growth) -> None:
    """MatMul with the weight on either side, often with a bias and a rectifier."""
    x = _of_rank(g, 1, 2, 3, 4)
    if x is None:
        return
    dtype, shape = x.array.dtype, x.array.shape
    if g.chance(0.2) and len(shape) > 1:
        y = g.add("MatMul", [g.weight((_channels(g), shape[-2]), dtype), x.name])
    else:
        stack = shape[:-2] if len(shape) > 2 and g.chance(0.1) else ()
        y = g.add("MatMul", [x.name, g.weight((*stack, shape[-1], _channels(g)), dtype)])
    if y is not None and g.chance(0.5):
        bias = g.weight(y.array.shape[-1:], dtype)
        y = g.add("Add", [y.name, bias] if g.chance(0.7) else [bias, y.name])
    _maybe_rectified(g, y)


def gemm(g: Growth) -> None:
    """Gemm with its attributes, and with either operand as the weight."""
    x = _of_rank(g, 2)
    if x is None:
        return
    dtype, (n, k), out = x.array.dtype, x.array.shape, _channels(g)
    left, flip_a, flip_b = g.chance(0.15), g.chance(0.2), g.chance(0.5)
    alpha, beta = (float(g.one_of((0.5, 2.0))) if g.chance(0.15) else None for _ in range(2))
    if left:  # [out, k'] times x or its transpose
        inner, width = (k, n) if flip_b else (n, k)
        names = [g.weight((inner, out) if flip_a else (out, inner), dtype), x.name]
        bias = (width,)
    else:
        inner = n if flip_a else k
        names = [x.name, g.weight((out, inner) if flip_b else (inner, out), dtype)]
        bias = (out,)
    if g.chance(0.7) or g.shared.opset < 11:
        names.append(g.weight(g.one_of((bias, bias, (1,))), dtype))
    y = g.add("Gemm", names, alpha=alpha, beta=beta, transA=int(flip_a) or None, transB=int(flip_b) or None)
    _maybe_rectified(g, y)


def conv(g: Growth) -> None:
    """Conv and ConvTranspose in one to three dimensions, with groups, strides, dilations and every kind of pads."""
    x = _of_rank(g, 3, 4, 5)
    if x is None:
        return
    dtype, channels, rank = x.array.dtype, x.array.shape[1], x.array.ndim - 2
    group = int(g.one_of((1, 1, channels, 2))) if channels else 1
    if channels % group:
        group = 1
    kernel = [g.between(1, 3) for _ in range(rank)]
    attributes: dict[str, Any] = {"group": group if group > 1 or g.chance(0.2) else None}
    if g.chance(0.4):
        attributes["strides"] = [g.between(1, 2) for _ in kernel]
    if g.chance(0.2):
        attributes["dilations"] = [g.between(1, 2) for _ in kernel]
    if g.chance(0.25):
        attributes["auto_pad"] = g.one_of(("SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"))
    elif g.chance(0.6):
        attributes["pads"] = [g.between(0, 1) for _ in kernel * 2]
    attributes["kernel_shape"] = kernel if g.chance(0.7) else None
    transposed = g.chance(0.3)
    out = group * g.between(1, 3) if group > 1 else _channels(g)
    shape = (channels, out // group, *kernel) if transposed else (out, channels // group, *kernel)
    if transposed and g.chance(0.3):
        attributes["output_padding"] = [g.between(0, 1) for _ in kernel]
    names = [x.name, g.weight(shape, dtype)]
    if g.chance(0.6):
        names.append(g.weight((out,), dtype))
    y = g.add("ConvTranspose" if transposed else "Conv", names, **attributes)
    if y is not None and g.chance(0.3):
        y = batchnorm(g, y)
    _maybe_rectified(g, y)


def batchnorm(g: Growth, x: Value | None = None) -> Value | None:
    """BatchNormalization, alone or behind another layer."""
    x = x or _of_rank(g, 2, 3, 4)
    if x is None or x.array.ndim < 2:
        return None
    dtype, n = x.array.dtype, x.array.shape[1]
    vectors = [1 + 0.2 * g.rng.normal(size=n), 0.2 * g.rng.normal(size=n), 0.2 * g.rng.normal(size=n),
               np.exp(0.4 * g.rng.normal(size=n))]  # fmt: skip
    if g.chance(0.05):
        vectors[3][:1] = 0
    names = [g.tensor(v.astype(dtype), "bn") for v in vectors]
    epsilon = float(g.one_of((1e-5, 1e-3)))
    return g.add("BatchNormalization", [x.name, *names], epsilon=epsilon if g.chance(0.7) else None)


def normalisation(g: Growth) -> None:
    """Instance, layer, group and RMS normalization; LRN and LpNormalization."""
    x = _of_rank(g, 2, 3, 4)
    if x is None:
        return
    dtype, shape = x.array.dtype, x.array.shape
    match g.one_of(("instance", "layer", "lrn", "lp", "group", "rms", "mean")):
        case "instance" if len(shape) > 2:
            g.add("InstanceNormalization", [x.name, g.weight((shape[1],), dtype), g.weight((shape[1],), dtype)])
        case "layer":
            axis = g.between(1, len(shape) - 1)
            size = shape[axis:]
            names = [x.name, g.weight(size, dtype), *([g.weight(size, dtype)] if g.chance(0.7) else [])]
            g.add("LayerNormalization", names, axis=axis - (len(shape) if g.chance(0.5) else 0))
        case "rms":
            g.add("RMSNormalization", [x.name, g.weight(shape[-1:], dtype)])
        case "lrn" if len(shape) == 4:
            g.add("LRN", [x.name], size=int(g.one_of((1, 3, 5))))
        case "group" if len(shape) > 2:
            g.add("GroupNormalization", [x.name, g.weight((shape[1],), dtype), g.weight((shape[1],), dtype)],
                  num_groups=1 if shape[1] % 2 else 2)  # fmt: skip
        case "mean":
            g.add("MeanVarianceNormalization", [x.name])
        case "lp":
            g.add("LpNormalization", [x.name], axis=g.between(-1, len(shape) - 1), p=g.between(1, 2))


def embedding(g: Growth) -> None:
    """Gather from a table by indices that are an input or computed."""
    index = g.pick(lambda v: v.array.dtype in (np.int64, np.int32) and v.array.size > 0)
    if index is None:
        return
    rows = max(2, int(np.abs(index.array).max()) + 1 + g.between(0, 3))
    if rows > 200:
        return
    table = g.weight((rows, _channels(g)), g.one_of((np.float32, np.float32, np.float16)))
    y = g.add("Gather", [table, index.name], axis=g.one_of((None, 0)))
    if y is not None and y.array.dtype == np.float16:
        g.add("Cast", [y.name], to=1)


def recurrent(g: Growth) -> None:
    """LSTM, GRU and RNN in every direction, with or without biases and states."""
    x = _of_rank(g, 3)
    if x is None or x.array.dtype != np.float32:
        return
    op = g.one_of(("LSTM", "GRU", "RNN"))
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[op]
    hidden, steps = g.between(3, 8), g.between(1, 2)
    direction = "bidirectional" if steps == 2 else g.one_of(("forward", "reverse"))
    names = [x.name, g.weight((steps, gates * hidden, x.array.shape[2])), g.weight((steps, gates * hidden, hidden))]
    if g.chance(0.6):
        names.append(g.weight((steps, 2 * gates * hidden)))
    reset = g.between(0, 1) if op == "GRU" else None
    outputs = g.between(1, 3 if op == "LSTM" else 2)
    g.add(op, names, outputs, hidden_size=hidden, direction=direction, linear_before_reset=reset)


def prelu(g: Growth) -> None:
    """PRelu with one slope, or one for each channel."""
    x = _of_rank(g, 2, 3, 4)
    if x is None:
        return
    shape = x.array.shape
    by_channel = (shape[1], *(1,) * (len(shape) - 2))
    g.add("PRelu", [x.name, g.weight(g.one_of(((1,), by_channel, by_channel, shape[1:])), x.array.dtype)])


def quantized(g: Growth) -> None:
    """Values or weights that pass QuantizeLinear and DequantizeLinear, and integer products."""
    x = _of_rank(g, 2, 3, 4)
    if x is None or x.array.dtype != np.float32:
        return
    dtype = g.one_of((np.uint8, np.int8))
    largest = max(1e-6, float(np.nan_to_num(np.abs(x.array), posinf=1, nan=1).max(initial=0)))
    scale = g.tensor(np.array(largest / 100, np.float32))
    zero = g.tensor(np.array(128 if dtype == np.uint8 else 0, dtype))
    match g.one_of(("value", "weight", "product", "dynamic")):
        case "value":
            q = g.add("QuantizeLinear", [x.name, scale, zero])
            if q is not None and g.chance(0.8):
                g.add("DequantizeLinear", [q.name, scale, zero])
        case "weight":
            integers = g.rng.integers(-90, 90, (x.array.shape[-1], 16)).astype(np.int8)
            w = g.add("DequantizeLinear", [g.tensor(integers, "q"), g.tensor(np.array(0.01, np.float32))])
            if w is not None:
                g.add("MatMul", [x.name, w.name])
        case "product":
            q = g.add("QuantizeLinear", [x.name, scale, zero])
            if q is not None:
                integers = g.rng.integers(-90, 90, (x.array.shape[-1], 16)).astype(np.int8)
                y = g.add("MatMulInteger", [q.name, g.tensor(integers, "q"), zero])
                if y is not None:
                    g.add("Cast", [y.name], to=1)
        case "dynamic":
            g.add("DynamicQuantizeLinear", [x.name], 3)


def einsum(g: Growth) -> None:
    """Einsum with a weight."""
    x = _of_rank(g, 2, 3)
    if x is not None:
        left = "nabc"[: x.array.ndim]
        w = g.weight((x.array.shape[-1], _channels(g)), x.array.dtype)
        g.add("Einsum", [x.name, w], equation=f"{left},{left[-1]}d->{left[:-1]}d")


def with_weight(g: Growth) -> None:
    """Elementwise arithmetic with a weight that broadcasts."""
    x = _of_rank(g, 1, 2, 3, 4)
    if x is not None:
        shape = x.array.shape[g.between(0, x.array.ndim - 1) :]
        names = [x.name, g.weight(shape, x.array.dtype)]
        g.add(g.one_of(("Add", "Mul", "Sub", "Max", "Min")), names if g.chance(0.7) else names[::-1])


def _maybe_rectified(g: Growth, y: Value | None) -> None:
    if y is not None and g.chance(0.5):
        match g.one_of(("Relu", "Relu", "Clip", "PRelu", "Sigmoid")):
            case "Clip":
                if g.shared.opset < 11:
                    g.add("Clip", [y.name], min=0.0, max=6.0)
                else:
                    limits = [g.tensor(np.array(limit, y.array.dtype)) for limit in (0, 6)]
                    g.add("Clip", [y.name, *limits])
            case "PRelu":
                prelu(g)
            case op:
                g.add(op, [y.name])


LAYERS = (matmul, matmul, gemm, gemm, conv, conv, batchnorm, normalisation, embedding, recurrent, prelu, quantized,
          einsum, with_weight)  # fmt: skip
