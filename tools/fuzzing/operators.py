"""Proposals of nodes without weights: arithmetic, movement, reductions, decisions, types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fuzzing.growing import Growth, Value

_UNARY = (
    "Abs", "Acos", "Asinh", "Atan", "Ceil", "Celu", "Cos", "Elu", "Erf", "Exp", "Floor", "HardSigmoid", "HardSwish",
    "Identity", "LeakyRelu", "Log", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign", "Sin",
    "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu", "Dropout", "Swish",
)  # fmt: skip
_BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mean", "Sum", "Mod")
_REDUCE = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
_TYPES = (1, 1, 1, 10, 11, 6, 7, 3, 2, 9)


def _float(g: Growth, least: int = 1, most: int = 5) -> Value | None:
    return g.pick(lambda v: v.is_float and least <= v.array.ndim <= most and v.array.size > 0)


def _axis(g: Growth, v: Value, first: int = 0) -> int:
    axis = g.between(min(first, v.array.ndim - 1), v.array.ndim - 1)
    return axis - (v.array.ndim if g.chance(0.3) and g.shared.opset >= 11 else 0)


def unary(g: Growth) -> None:
    """One of the elementwise functions of one value."""
    x = _float(g, 0)
    if x is not None:
        g.add(g.one_of(_UNARY), [x.name])


def gelu(g: Growth) -> None:
    """Gelu, whole or as exporters spell it."""
    x = _float(g)
    if x is None:
        return
    if g.shared.opset >= 20 and g.chance(0.5):
        g.add("Gelu", [x.name], approximate=g.one_of((None, "tanh", "none")))
        return
    y = g.add("Div", [x.name, g.tensor(np.array(2**0.5, x.array.dtype))])
    for op, other in (("Erf", None), ("Add", 1.0), ("Mul", x.name), ("Mul", 0.5)):
        if y is None:
            return
        names = [y.name] if other is None else [y.name, other if isinstance(other, str) else g.tensor(
            np.array(other, x.array.dtype))]  # fmt: skip
        y = g.add(op, names)


def binary(g: Growth) -> None:
    """Arithmetic of two values that broadcast, or of a value and a constant."""
    x = _float(g, 0)
    if x is None:
        return

    def fits(v: Value) -> bool:
        try:
            return v.array.dtype == x.array.dtype and np.broadcast_shapes(v.array.shape, x.array.shape) is not None
        except ValueError:
            return False

    y = None if g.chance(0.3) else g.pick(fits)
    other = y.name if y is not None else g.tensor(np.array(g.one_of((0.5, 2.0, 1.0, 0.0, -1.5)), x.array.dtype))
    op = g.one_of(_BINARY)
    g.add(op, [x.name, other] if g.chance(0.7) else [other, x.name], fmod=1 if op == "Mod" else None)


def scores(g: Growth) -> None:
    """Softmax and its relatives."""
    x = _float(g, 1, 4)
    if x is not None:
        axis = _axis(g, x) if g.chance(0.7) else None
        g.add(g.one_of(("Softmax", "Softmax", "LogSoftmax", "Hardmax")), [x.name], axis=axis)


def decision(g: Growth) -> None:
    """ArgMax, ArgMin, TopK, NonZero, Unique."""
    x = _float(g, 1, 4)
    if x is None:
        return
    axis = _axis(g, x)
    match g.one_of(("ArgMax", "ArgMax", "ArgMin", "TopK", "TopK", "NonZero", "Unique")):
        case "TopK":
            k = g.between(1, max(1, min(3, x.array.shape[axis])))
            if g.shared.opset < 10:
                g.add("TopK", [x.name], 2, axis=axis, k=k)
            else:
                g.add("TopK", [x.name, g.ints(k)], 2, axis=axis)
        case "NonZero":
            g.add("NonZero", [x.name])
        case "Unique":
            g.add("Unique", [x.name], g.between(1, 3))
        case op:
            g.add(op, [x.name], axis=axis, keepdims=g.one_of((None, 0, 1)))


def reduction(g: Growth) -> None:
    """A reduction over one or all axes, or CumSum."""
    x = _float(g, 1)
    if x is None:
        return
    if g.chance(0.1):
        g.add("CumSum", [x.name, g.tensor(np.array(_axis(g, x), np.int64))], exclusive=g.one_of((None, 1)))
        return
    op, keep = f"Reduce{g.one_of(_REDUCE)}", g.one_of((None, 0, 1))
    axes = None if g.chance(0.2) else [_axis(g, x)]
    if axes is not None and g.shared.opset >= (13 if op == "ReduceSum" else 18):
        g.add(op, [x.name, g.ints(*axes)], keepdims=keep)
    else:
        g.add(op, [x.name], axes=axes, keepdims=keep)


def pool(g: Growth) -> None:
    """Pooling of windows or of all."""
    x = _float(g, 3, 5)
    if x is None:
        return
    if g.chance(0.3):
        g.add(g.one_of(("GlobalAveragePool", "GlobalMaxPool")), [x.name])
        return
    op, rank = g.one_of(("MaxPool", "AveragePool", "LpPool")), x.array.ndim - 2
    attributes: dict[str, Any] = {"kernel_shape": [g.between(1, 3) for _ in range(rank)]}
    if g.chance(0.6):
        attributes["strides"] = [g.between(1, 2) for _ in range(rank)]
    if g.chance(0.3):
        attributes["auto_pad"] = g.one_of(("SAME_UPPER", "SAME_LOWER", "VALID"))
    elif g.chance(0.5):
        attributes["pads"] = [g.between(0, min(1, k - 1)) for k in attributes["kernel_shape"] * 2]
    if g.chance(0.2):
        attributes["ceil_mode"] = 1
    if op == "AveragePool" and g.chance(0.3):
        attributes["count_include_pad"] = 1
    g.add(op, [x.name], 2 if op == "MaxPool" and g.chance(0.15) else 1, **attributes)


def reshaped(g: Growth) -> None:
    """Reshape, Flatten, Transpose, Squeeze, Unsqueeze, Expand, Tile."""
    x = g.pick(lambda v: 1 <= v.array.ndim <= 5)
    if x is None:
        return
    shape = x.array.shape
    match g.one_of(
        ("Reshape", "Reshape", "Flatten", "Transpose", "Transpose", "Squeeze", "Unsqueeze", "Expand", "Tile")
    ):
        case "Reshape":
            target = g.one_of(([0, -1], [-1, shape[-1]], [shape[0], 1, -1], [0, 0, -1], [-1], [1, *shape]))
            g.add("Reshape", [x.name, g.ints(*target)])
        case "Flatten":
            g.add("Flatten", [x.name], axis=g.one_of((None, g.between(0, x.array.ndim))))
        case "Transpose":
            perm = [int(a) for a in g.rng.permutation(x.array.ndim)]
            g.add("Transpose", [x.name], perm=g.one_of((None, perm, perm)))
        case "Squeeze" | "Unsqueeze" as op:
            ones = [a for a, n in enumerate(shape) if n == 1]
            axis = g.between(0, x.array.ndim) if op == "Unsqueeze" else g.one_of([*ones, 0])
            if g.shared.opset >= 13:
                g.add(op, [x.name, g.ints(axis)])
            else:
                g.add(op, [x.name], axes=[axis])
        case "Expand":
            g.add("Expand", [x.name, g.ints(*(int(g.one_of((1, 1, 2))) for _ in range(x.array.ndim)))])
        case "Tile":
            g.add("Tile", [x.name, g.ints(*(int(g.one_of((1, 1, 2))) for _ in shape))])


def part(g: Growth) -> None:
    """Split, Gather by constants, GatherElements, GatherND, Trilu."""
    x = g.pick(lambda v: 1 <= v.array.ndim <= 5 and v.array.size > 0)
    if x is None:
        return
    axis = _axis(g, x)
    n = x.array.shape[axis]
    match g.one_of(("Split", "Gather", "Gather", "GatherElements", "GatherND", "Trilu")):
        case "Split" if n > 1:
            sizes = [1, n - 1]
            if g.shared.opset < 13:
                g.add("Split", [x.name], 2, axis=axis, split=sizes if n % 2 or g.chance(0.5) else None)
            elif n % 2 == 0 and g.chance(0.4):
                g.add("Split", [x.name], 2, axis=axis, num_outputs=2 if g.shared.opset >= 18 else None)
            else:
                g.add("Split", [x.name, g.ints(*sizes)], 2, axis=axis)
        case "Gather":
            index = g.rng.integers(0, n, g.one_of(((), (1,), (2,), (2, 2)))).astype(g.one_of((np.int64, np.int32)))
            g.add("Gather", [x.name, g.tensor(np.asarray(index))], axis=axis)
        case "GatherElements":
            shape = list(x.array.shape)
            shape[axis] = g.between(1, 2)
            g.add("GatherElements", [x.name, g.tensor(g.rng.integers(0, n, shape))], axis=axis)
        case "GatherND":
            g.add("GatherND", [x.name, g.tensor(g.rng.integers(0, x.array.shape[0], (2, 1)))])
        case "Trilu":
            g.add("Trilu", [x.name], upper=g.between(0, 1))


def cut(g: Growth) -> None:
    """Slice with any start, end and step, also backwards."""
    x = g.pick(lambda v: 1 <= v.array.ndim <= 5 and v.array.size > 0)
    if x is None:
        return
    axis = _axis(g, x)
    n = x.array.shape[axis]
    start, end, step = int(g.one_of((0, 1, -n))), int(g.one_of((n, 2**31, -1))), int(g.one_of((1, 1, 2)))
    if g.chance(0.15):
        start, end, step = -1, -(2**31), -1
    if g.shared.opset < 10:
        g.add("Slice", [x.name], starts=[start], ends=[end], axes=[axis])
    else:
        g.add("Slice", [x.name, g.ints(start), g.ints(end), g.ints(axis), g.ints(step)])


def joined(g: Growth) -> None:
    """Concat, Where, ScatterND, ScatterElements, Pad."""
    x = _float(g)
    if x is None:
        return
    same = g.pick(lambda v: v.array.shape == x.array.shape and v.array.dtype == x.array.dtype)
    axis = _axis(g, x)
    match g.one_of(("Concat", "Concat", "Where", "ScatterND", "ScatterElements", "Pad", "Pad")):
        case "Concat" if same is not None:
            g.add("Concat", [x.name, same.name, *([x.name] if g.chance(0.2) else [])], axis=axis)
        case "Where" if same is not None:
            mask = g.add("Greater", [x.name, g.tensor(np.array(0, x.array.dtype))])
            if mask is not None:
                g.add("Where", [mask.name, x.name, same.name])
        case "ScatterND":
            updates = g.tensor(g.rng.normal(size=(1, *x.array.shape[1:])).astype(x.array.dtype))
            g.add("ScatterND", [x.name, g.tensor(np.zeros((1, 1), np.int64)), updates])
        case "ScatterElements":
            shape = list(x.array.shape)
            shape[axis] = 1
            updates = g.tensor(g.rng.normal(size=shape).astype(x.array.dtype))
            g.add("ScatterElements", [x.name, g.tensor(np.zeros(shape, np.int64)), updates], axis=axis)
        case "Pad":
            pads, mode = [g.between(0, 1) for _ in x.array.shape * 2], g.one_of((None, "reflect", "edge", "constant"))
            if g.shared.opset < 11:
                g.add("Pad", [x.name], pads=pads, mode=mode)
            else:
                g.add("Pad", [x.name, g.ints(*pads)], mode=mode)


def spatial(g: Growth) -> None:
    """Resize, Upsample, DepthToSpace, SpaceToDepth, GridSample."""
    x = _float(g, 4, 4)
    if x is None:
        return
    mode = g.one_of(("nearest", "linear", None))
    match g.one_of(("Resize", "Resize", "DepthToSpace", "SpaceToDepth", "GridSample")):
        case "Resize":
            scales = g.tensor(np.array([1, 1, *(g.one_of((1.0, 2.0, 0.5, 1.5)) for _ in range(2))], np.float32))
            if g.shared.opset < 9:
                g.add("Upsample", [x.name], scales=[1.0, 1.0, 2.0, 2.0], mode=mode)
            elif g.shared.opset < 11:
                g.add("Upsample" if g.shared.opset == 9 else "Resize", [x.name, scales], mode=mode)
            else:
                where = g.one_of((None, "asymmetric", "align_corners", "pytorch_half_pixel", "half_pixel"))
                roi = g.tensor(np.zeros(0, np.float32)) if g.shared.opset < 13 or g.chance(0.3) else ""
                g.add("Resize", [x.name, roi, scales], mode=g.one_of((mode, "cubic")),
                      coordinate_transformation_mode=where)  # fmt: skip
        case "DepthToSpace":
            g.add("DepthToSpace", [x.name], blocksize=2, mode=g.one_of((None, "CRD", "DCR")))
        case "SpaceToDepth":
            g.add("SpaceToDepth", [x.name], blocksize=2)
        case "GridSample":
            grid = g.tensor(g.rng.uniform(-1, 1, (x.array.shape[0], 2, 2, 2)).astype(np.float32))
            g.add("GridSample", [x.name, grid])


def typed(g: Growth) -> None:
    """Cast to another type, comparisons, logic, OneHot, shapes."""
    x = g.pick(lambda v: v.array.dtype.kind in "fiub" and v.array.size > 0)
    if x is None:
        return
    match g.one_of(("Cast", "Cast", "compare", "Not", "IsNaN", "OneHot", "Shape", "Size", "Range", "EyeLike")):
        case "Cast":
            g.add("Cast", [x.name], to=int(g.one_of(_TYPES)))
        case "compare":
            limit = g.tensor(np.array(0, x.array.dtype))
            g.add(g.one_of(("Greater", "Less", "Equal", "GreaterOrEqual")), [x.name, limit])
        case "Not" | "IsNaN" | "Shape" | "Size" as op:
            g.add(op, [x.name])
        case "OneHot" if x.array.dtype.kind in "iu":
            depth = g.tensor(np.array(5, np.int64))
            g.add("OneHot", [x.name, depth, g.tensor(np.array([0, 1], np.float32))], axis=g.one_of((None, -1, 1)))
        case "Range":
            size = g.add("Size", [x.name])
            if size is not None:
                g.add("Range", [g.tensor(np.array(0, np.int64)), size.name, g.tensor(np.array(1, np.int64))])
        case "EyeLike" if x.array.ndim == 2:
            g.add("EyeLike", [x.name], dtype=g.one_of((None, 1)))


def attention(g: Growth) -> None:
    """The product of a value with the transpose of itself, weighted: attention of exporters."""
    x = _float(g, 3, 3)
    if x is None:
        return
    t = g.add("Transpose", [x.name], perm=[0, 2, 1])
    a = None if t is None else g.add("MatMul", [x.name, t.name])
    s = None if a is None else g.add("Softmax", [a.name], axis=2 if g.shared.opset < 13 else -1)
    if s is not None:
        g.add("MatMul", [s.name, x.name])


def shape_arithmetic(g: Growth) -> None:
    """A Reshape to a shape that the graph computes, as exporters write it."""
    x = _float(g, 2, 5)
    shape = None if x is None else g.add("Shape", [x.name])
    if x is None or shape is None:
        return
    first = g.add("Gather", [shape.name, g.ints(0)], axis=0)
    target = None if first is None else g.add("Concat", [first.name, g.ints(-1)], axis=0)
    if target is not None:
        g.add("Reshape", [x.name, target.name])


OPERATORS: tuple[Callable[[Growth], object], ...] = (
    unary, unary, unary, gelu, binary, binary, binary, scores, decision, reduction, pool, reshaped, reshaped, part,
    cut, joined, spatial, typed, typed, attention, shape_arithmetic,
)  # fmt: skip
