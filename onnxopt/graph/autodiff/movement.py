"""Rules for operators that only move or copy elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Any

import numpy as np
import onnx
from onnx import helper

from onnxopt.data import quiet_session
from onnxopt.encoding import Array
from onnxopt.graph.autodiff.tape import IR, Node, NoGradient, Var, rule, sum_to

Grads = Iterator[tuple[int, Var]]


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def _reshape(n: Node) -> Grads:
    yield 0, n.dy.reshape(n.shape(0))


@rule("Transpose")
def _transpose(n: Node) -> Grads:
    permutation = n.attr("perm") or range(n.rank)[::-1]
    yield 0, n.dy.transpose(np.argsort(permutation).tolist())


@rule("Expand")
def _expand(n: Node) -> Grads:
    yield 0, sum_to(n.dy, n.out_shape, n.shape(0))


@rule("Tile")
def _tile(n: Node) -> Grads:
    repeats = n.ints("repeats", 1) or []
    pairs = list(chain.from_iterable(zip(repeats, n.shape(0), strict=True)))
    yield 0, n.dy.reshape(pairs).sum(range(0, len(pairs), 2), keepdims=False)


@rule("Concat")
def _concat(n: Node) -> Grads:
    axis = n.attr("axis", 1)
    sizes = [n.shape(i)[axis] for i in range(len(n.inputs))]
    yield from enumerate(n.tape.ops("Split", len(sizes), n.dy, np.array(sizes, np.int64), axis=axis))


@rule("Split")
def _split(n: Node) -> Grads:
    shapes = [n.tape.forward.shapes.get(name) for name in n.outputs]
    parts = [
        grad if grad is not None else n.tape.var(np.zeros(shape or (), np.float32))
        for grad, shape in zip(n.grads, shapes, strict=True)
    ]
    yield 0, n.tape.op("Concat", *parts, axis=n.attr("axis", 0))


@rule("Slice")
def _slice(n: Node) -> Grads:
    starts, ends = n.ints("starts", 1), n.ints("ends", 2)
    assert starts is not None and ends is not None
    axes = n.ints("axes", 3) or list(range(len(starts)))
    steps = n.ints("steps", 4) or [1] * len(starts)
    grad, shape = n.dy, list(n.out_shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        grad = _put(grad, shape, axis % n.rank, np.arange(n.shape(0)[axis])[_python_slice(start, end, step)], n)
    yield 0, grad


def _python_slice(start: int, end: int, step: int) -> slice:
    """A slice of ONNX in Python: with a negative step, an end far below zero means the first element."""
    return slice(start, None if step < 0 and end < -(2**31) + 1 else end, step)


@rule("Gather")
def _gather(n: Node) -> Grads:
    axis = n.attr("axis", 0) % n.rank
    shape = list(n.shape(0))
    shape[axis] = prod(n.shape(1))
    if n.inputs[1] in n.tape.forward.constants:
        yield 0, _put(n.dy.reshape(shape), shape, axis, n.constant(1).ravel() % n.shape(0)[axis], n)
        return
    indices = n.input(1).apply("Cast", to=onnx.TensorProto.INT64).reshape(_along(axis, n.rank))
    yield 0, add_at(n, indices.expand(shape), n.dy.reshape(shape), n.shape(0), axis)


@rule("Pad")
def _pad(n: Node) -> Grads:
    pads, axes = n.ints("pads", 1), n.ints("axes", 3)
    assert pads is not None
    axes = [axis % n.rank for axis in axes] if axes else list(range(n.rank))
    before, after = [0] * n.rank, [0] * n.rank
    for position, axis in enumerate(axes):
        before[axis], after[axis] = pads[position], pads[position + len(axes)]
    mode, grad = n.attr("mode", "constant"), n.dy
    if mode == "constant":
        yield 0, grad.pad([-p for p in before], [-p for p in after])
        return
    if min(before + after) < 0:
        raise NoGradient(f"it pads negatively in mode {mode}")
    shape = list(n.out_shape)
    for axis in range(n.rank):
        if before[axis] or after[axis]:
            source = np.pad(np.arange(n.shape(0)[axis]), (before[axis], after[axis]), mode=mode)
            grad = _put(grad, shape, axis, source, n)
    yield 0, grad


def _put(grad: Var, shape: list[int], axis: int, indices: Array, n: Node) -> Var:
    """The gradient of x in ``y = take(x, indices, axis)``. Changes `shape` from that of `grad` to that of x."""
    size, taken = n.shape(0)[axis], list(shape)
    shape[axis] = size
    begin = int(indices[0]) if len(indices) else 0
    step = int(indices[1]) - begin if len(indices) > 1 else 1
    if step > 0 and np.array_equal(indices, begin + step * np.arange(len(indices))):
        before, after = [0] * len(shape), [0] * len(shape)
        before[axis], after[axis] = begin, size - begin - step * len(indices)
        return _apart(grad, taken, axis, step).pad(before, after)
    return add_at(n, n.tape.var(indices.reshape(_along(axis, len(shape)))).expand(taken), grad, shape, axis)


def _apart(grad: Var, shape: list[int], axis: int, step: int) -> Var:
    """With ``step - 1`` zeros behind each element along an axis."""
    if step == 1:
        return grad
    behind = [0] * (len(shape) + 1)
    behind[axis + 1] = step - 1
    apart = grad.reshape([*shape[: axis + 1], 1, *shape[axis + 1 :]]).pad([0] * len(behind), behind)
    return apart.reshape([*shape[:axis], shape[axis] * step, *shape[axis + 1 :]])


def add_at(n: Node, indices: Var, grad: Var, shape: Sequence[int], axis: int) -> Var:
    """Zeros of `shape`, to which `grad` is added at `indices` along `axis`."""
    made = n.tape.var(0.0).expand(shape).apply("ScatterElements", indices, grad, axis=axis, reduction="add")
    n.tape.added[made.name] = indices, grad, axis
    return made


def _along(axis: int, rank: int) -> list[int]:
    """The shape of a vector along `axis`."""
    return [-1 if i == axis else 1 for i in range(rank)]


@rule("DepthToSpace")
def _depth_to_space(n: Node) -> Grads:
    (batch, channels, height, width), block = n.shape(0), n.attr("blocksize")
    deep = channels // block**2
    column_row = n.attr("mode", "DCR") == "CRD"
    # y[batch, deep, height, block, width, block]; the block axes move back before or behind the channels
    grad = n.dy.reshape([batch, deep, height, block, width, block])
    yield 0, grad.transpose([0, 1, 3, 5, 2, 4] if column_row else [0, 3, 5, 1, 2, 4]).reshape(n.shape(0))


@rule("SpaceToDepth")
def _space_to_depth(n: Node) -> Grads:
    yield 0, n.dy.apply("DepthToSpace", blocksize=n.attr("blocksize"), mode="DCR")


@rule("Resize", "Upsample")
def _resize(n: Node) -> Grads:
    """One matrix for each axis, found by resizing the unit vectors."""
    if n.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        raise NoGradient("it crops by a region of interest")
    grad, shape = n.dy, list(n.out_shape)
    for axis in range(n.rank):
        size, target = n.shape(0)[axis], n.out_shape[axis]
        if size != target:
            matrix = _interpolation(n, axis, size, target)
            others = [i for i in range(n.rank) if i != axis]
            turned = grad if axis == n.rank - 1 else grad.transpose([*others, axis])
            turned = turned.apply("MatMul", matrix)
            grad = turned if axis == n.rank - 1 else turned.transpose(np.argsort([*others, axis]).tolist())
            shape[axis] = size
    yield 0, grad


def _interpolation(n: Node, axis: int, size: int, target: int) -> Array:
    """float32[target, size]: row t holds the weights of all elements along `axis` in element t."""
    scales = np.ones(2, np.float32)
    given = _scales(n, axis)
    scales[1] = given if given is not None else target / size
    copied = {k: v for k, v in n.attributes.items() if k not in ("axes", "scales", "keep_aspect_ratio_policy")}
    node: onnx.NodeProto
    tensors: dict[str, Array] = {
        "roi": np.zeros(0, np.float32),
        "scales": scales,
        "sizes": np.array([size, target], np.int64),
    }
    if n.op == "Upsample" and n.opset < 9:
        node = helper.make_node("Upsample", ["x"], ["y"], scales=scales.tolist(), **copied)
    elif n.op == "Upsample" or n.opset < 11:
        node = helper.make_node(n.op, ["x", "scales"], ["y"], **copied)
    elif given is not None:
        node = helper.make_node("Resize", ["x", "roi", "scales"], ["y"], **copied)
    else:
        node = helper.make_node("Resize", ["x", "roi", "", "sizes"], ["y"], **copied)
    return _run(node, np.eye(size, dtype=np.float32), tensors, n.opset).T


def _scales(n: Node, axis: int) -> float | None:
    index = 1 if n.op == "Upsample" or n.opset < 11 else 2
    scales: Sequence[float] = n.constant(index).tolist() if n.has(index) else n.attr("scales", ())
    axes = n.attr("axes") or range(len(scales))
    return float(scales[list(axes).index(axis)]) if len(scales) else None


def _run(node: onnx.NodeProto, x: Array, tensors: dict[str, Array], opset: int) -> Array:
    used: list[Any] = [onnx.numpy_helper.from_array(a, name) for name, a in tensors.items() if name in node.input]
    graph = helper.make_graph(
        [node],
        "probe",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x.shape)],
        [onnx.ValueInfoProto(name="y")],
        used,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR)
    return np.asarray(quiet_session(model.SerializeToString()).run(None, {"x": x})[0])
