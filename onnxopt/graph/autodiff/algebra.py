"""Rules for products, reductions and normalisation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from onnxopt.graph.autodiff.tape import Node, NoGradient, Var, rule, sum_to

Grads = Iterator[tuple[int, Var]]


@rule("Gemm")
def _gemm(n: Node) -> Grads:
    """``Y = alpha A' B' + beta C``, where A' and B' may be transposed."""
    a, b, dy = n.input(0), n.input(1), n.dy
    flip_a, flip_b, alpha = n.attr("transA", 0), n.attr("transB", 0), n.attr("alpha", 1.0)
    if flip_a:
        yield 0, b.apply("Gemm", dy, transA=flip_b, transB=1, alpha=alpha)
    else:
        yield 0, dy.apply("Gemm", b, transB=1 - flip_b, alpha=alpha)
    if flip_b:
        yield 1, dy.apply("Gemm", a, transA=1, transB=flip_a, alpha=alpha)
    else:
        yield 1, a.apply("Gemm", dy, transA=1 - flip_a, alpha=alpha)
    if n.has(2):
        yield 2, sum_to(dy * n.attr("beta", 1.0), n.out_shape, n.shape(2))


@rule("MatMul")
def _matmul(n: Node) -> Grads:
    """As numpy.matmul: a vector counts as a row or a column, leading axes broadcast."""
    yield from enumerate(products((n.input(0), n.shape(0)), (n.input(1), n.shape(1)), n.dy))


_Side = tuple[Var, tuple[int, ...]]


def products(left: _Side, right: _Side, dy: Var) -> tuple[Var, Var]:
    """Gradients of both sides of a product, given with their shapes."""
    a_shape = left[1] if len(left[1]) > 1 else (1, *left[1])
    b_shape = right[1] if len(right[1]) > 1 else (*right[1], 1)
    batch = np.broadcast_shapes(a_shape[:-2], b_shape[:-2])
    a, b = left[0].reshape(a_shape), right[0].reshape(b_shape)
    dy = dy.reshape([*batch, a_shape[-2], b_shape[-1]])
    da = sum_to(dy.apply("MatMul", flipped(b, len(b_shape))), (*batch, *a_shape[-2:]), a_shape)
    if prod(b_shape[:-2]) == 1:  # one product instead of a sum of many
        a, dy = a.reshape([-1, a_shape[-1]]), dy.reshape([-1, b_shape[-1]])
        db = a.apply("Gemm", dy, transA=1)
    else:
        db = sum_to(flipped(a, len(a_shape)).apply("MatMul", dy), (*batch, *b_shape[-2:]), b_shape)
    return da.reshape(left[1]), db.reshape(right[1])


def flipped(matrix: Var, rank: int) -> Var:
    """Its last two axes the other way round."""
    return matrix.transpose([*range(rank - 2), rank - 1, rank - 2])


_REDUCTIONS: dict[str, Callable[[Node, Var, int], Var]] = {
    "ReduceL1": lambda n, y, count: n.x.apply("Sign"),
    "ReduceL2": lambda n, y, count: n.x / y,
    "ReduceLogSumExp": lambda n, y, count: (n.x - y).apply("Exp"),
    "ReduceMax": lambda n, y, count: n.x.same(y),
    "ReduceMean": lambda n, y, count: n.tape.var(1 / count),
    "ReduceMin": lambda n, y, count: n.x.same(y),
    "ReduceSum": lambda n, y, count: n.tape.var(1.0),
    "ReduceSumSquare": lambda n, y, count: 2.0 * n.x,
}
"""dy/dx from the node, y with its axes kept, and the number of elements reduced to one."""


@rule(*_REDUCTIONS)
def _reduce(n: Node) -> Grads:
    axes = n.ints("axes", 1)
    if not axes:
        axes = [] if n.attr("noop_with_empty_axes", 0) else list(range(n.rank))
    axes = [axis % n.rank for axis in axes]
    kept = [1 if i in axes else size for i, size in enumerate(n.shape(0))]
    count = prod(n.shape(0)[axis] for axis in axes)
    slope = _REDUCTIONS[n.op](n, n.y.reshape(kept), count)
    yield 0, (n.dy.reshape(kept) * slope).expand(n.shape(0))


@rule("Softmax")
def _softmax(n: Node) -> Grads:
    yield 0, n.y * (n.dy - (n.dy * n.y).sum(_softmax_axes(n)))


@rule("LogSoftmax")
def _log_softmax(n: Node) -> Grads:
    yield 0, n.dy - n.y.apply("Exp") * n.dy.sum(_softmax_axes(n))


def _softmax_axes(n: Node) -> Sequence[int]:
    """One axis; before opset 13, that axis and all after it."""
    if n.opset >= 13:
        return [n.attr("axis", -1)]
    return range(n.attr("axis", 1) % n.rank, n.rank)


@rule("BatchNormalization")
def _batch_norm(n: Node) -> Grads:
    if n.attr("training_mode", 0):
        raise NoGradient("it is in training mode")
    by_channel, others = [-1] + [1] * (n.rank - 2), [i for i in range(n.rank) if i != 1]
    scale, mean, variance = n.operand(1).reshape(by_channel), *(n.constant(i).reshape(by_channel) for i in (3, 4))
    inverse = 1 / np.sqrt(variance + n.attr("epsilon", 1e-5))
    grad, normal = n.dy * (scale * inverse), (n.x - mean) * inverse
    yield 0, grad
    yield 1, (n.dy * normal).sum(others, keepdims=False)
    yield 2, n.dy.sum(others, keepdims=False)
    yield 3, -grad.sum(others, keepdims=False)
    yield 4, (grad * normal * (-inverse / 2)).sum(others, keepdims=False)


@rule("InstanceNormalization")
def _instance_norm(n: Node) -> Grads:
    scale = n.input(1).reshape([-1] + [1] * (n.rank - 2))
    normal, inverse = _normal(n, range(2, n.rank))
    yield 0, normalised(n.dy * scale, normal, inverse, range(2, n.rank))
    others = [i for i in range(n.rank) if i != 1]
    yield 1, (n.dy * normal).sum(others, keepdims=False)
    yield 2, n.dy.sum(others, keepdims=False)


@rule("LayerNormalization")
def _layer_norm(n: Node) -> Grads:
    axes = range(n.attr("axis", -1) % n.rank, n.rank)
    normal, inverse = _normal(n, axes)
    yield 0, normalised(n.dy * n.input(1), normal, inverse, axes)
    yield 1, sum_to(n.dy * normal, n.out_shape, n.shape(1))
    if n.has(2):
        yield 2, sum_to(n.dy, n.out_shape, n.shape(2))


@rule("RMSNormalization", "SimplifiedLayerNormalization")
def _rms_norm(n: Node) -> Grads:
    axes = range(n.attr("axis", -1) % n.rank, n.rank)
    normal, inverse = rms_normal(n.x, float(n.attr("epsilon", 1e-5)), axes)
    yield 0, normalised(n.dy * n.input(1), normal, inverse, axes, centred=False)
    yield 1, sum_to(n.dy * normal, n.out_shape, n.shape(1))


def _normal(n: Node, axes: Sequence[int]) -> tuple[Var, Var]:
    return standard_normal(n.x, float(n.attr("epsilon", 1e-5)), axes)


def standard_normal(x: Var, epsilon: float, axes: Sequence[int]) -> tuple[Var, Var]:
    """x with mean 0 and variance 1 along `axes`, and the inverse of its standard deviation."""
    return rms_normal(x - x.mean(axes), epsilon, axes)


def rms_normal(x: Var, epsilon: float, axes: Sequence[int]) -> tuple[Var, Var]:
    """x with mean square 1 along `axes`, and the inverse of its root mean square."""
    inverse = ((x * x).mean(axes) + epsilon) ** -0.5
    return x * inverse, inverse


def normalised(grad: Var, normal: Var, inverse: Var, axes: Sequence[int], centred: bool = True) -> Var:
    """The gradient of x from the gradient of `normal`, which has mean 0 where `centred`."""
    along = grad - normal * (grad * normal).mean(axes)
    return inverse * (along - grad.mean(axes) if centred else along)


@rule("LpNormalization")
def _lp_norm(n: Node) -> Grads:
    if n.attr("p", 2) != 2:
        raise NoGradient("its p is not 2")
    axes = [n.attr("axis", -1) % n.rank]
    norm = (n.x * n.x).sum(axes) ** 0.5
    yield 0, (n.dy - n.y * (n.dy * n.y).sum(axes)) / norm
