"""Rules for elementwise operators, with broadcasting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import pi, sqrt

import numpy as np
import onnx

from onnxopt.graph.autodiff.tape import Node, NoGradient, Var, rule, sum_to

Grads = Iterator[tuple[int, Var]]


def _clip(n: Node) -> Var:
    low = float(n.constant(1) if n.has(1) else n.attr("min", -np.inf))
    high = float(n.constant(2) if n.has(2) else n.attr("max", np.inf))
    return n.x.same(n.x.apply("Clip", low, high))  # one comparison instead of one for each limit


def _elu(n: Node) -> Var:
    positive = n.x > 0
    return positive + (1 - positive) * (n.y + float(n.attr("alpha", 1.0)))


def _selu(n: Node) -> Var:
    gamma, alpha = float(n.attr("gamma", 1.0507009873554805)), float(n.attr("alpha", 1.6732632423543772))
    positive = n.x > 0
    return positive * gamma + (1 - positive) * (n.y + gamma * alpha)


def _hard_swish(n: Node) -> Var:
    inside = (n.x > -3) * (n.x < 3)
    return (n.x > 3) + inside * (n.x / 3 + 0.5)


def _gelu(n: Node) -> Var:
    return gelu(n.x, tanh=n.attr("approximate", "none") == "tanh")


def gelu(x: Var, tanh: bool) -> Var:
    """The derivative of Gelu at x, or of its approximation by the hyperbolic tangent."""
    if tanh:
        a, b = sqrt(2 / pi), 0.044715
        t = (a * (x + b * x * x * x)).apply("Tanh")
        return 0.5 * (1 + t) + 0.5 * a * x * (1 - t * t) * (1 + 3 * b * x * x)
    return 0.5 * (1 + (x / sqrt(2)).apply("Erf")) + x * (-0.5 * x * x).apply("Exp") / sqrt(2 * pi)


_DERIVATIVES: dict[str, Callable[[Node], Var]] = {
    "Abs": lambda n: n.x.apply("Sign"),
    "Clip": _clip,
    "Cos": lambda n: -n.x.apply("Sin"),
    "Elu": _elu,
    "Erf": lambda n: (-n.x * n.x).apply("Exp") * (2 / sqrt(pi)),
    "Exp": lambda n: n.y,
    "Gelu": _gelu,
    "HardSigmoid": lambda n: (n.y > 0) * (n.y < 1) * n.attr("alpha", 0.2),
    "HardSwish": _hard_swish,
    "LeakyRelu": lambda n: _slope(n, n.attr("alpha", 0.01)),
    "Log": lambda n: 1 / n.x,
    "Neg": lambda n: n.tape.var(-1.0),
    "Reciprocal": lambda n: -n.y * n.y,
    "Relu": lambda n: n.y > 0,
    "Selu": _selu,
    "Sigmoid": lambda n: n.y * (1 - n.y),
    "Sin": lambda n: n.x.apply("Cos"),
    "Softplus": lambda n: n.x.apply("Sigmoid"),
    "Softsign": lambda n: (1 - n.y.apply("Abs")) ** 2,
    "Sqrt": lambda n: 0.5 / n.y,
    "Tanh": lambda n: 1 - n.y * n.y,
    "ThresholdedRelu": lambda n: n.x > n.attr("alpha", 1.0),
}
"""dy/dx, from x or y, whichever is shorter."""


def _slope(n: Node, slope: Var | float) -> Var:
    positive = n.x > 0
    return positive + (1 - positive) * slope


@rule(*_DERIVATIVES)
def _unary(n: Node) -> Grads:
    yield 0, n.dy * _DERIVATIVES[n.op](n)


@rule("Identity", "Dropout")
def _identity(n: Node) -> Grads:
    if n.has(2) and n.constant(2):
        raise NoGradient("it is in training mode")
    yield 0, n.dy


@rule("Cast", "CastLike")
def _cast(n: Node) -> Grads:
    yield 0, n.dy  # no gradient reaches an integer


@rule("QuantizeLinear")
def _quantize(n: Node) -> Grads:
    """The straight-through estimator: rounding counts as the identity, and saturated elements pass nothing.

    So does the gradient of the scale, from here and from DequantizeLinear: of ``s round(x / s)`` it is ``round(x / s) -
    x / s``, or where the value saturates, the limit (Esser et al. 2020, learned step sizes).
    """
    limits = np.iinfo(onnx.helper.tensor_dtype_to_np_dtype(n.tape.forward.types[n.outputs[0]]))
    scale = _scale(n)
    grad = n.dy / scale * (n.y > limits.min) * (n.y < limits.max)
    yield 0, grad
    if n.wants(1):
        yield 1, _summed(n, -grad * n.x / scale)


@rule("DynamicQuantizeLinear")
def _quantize_dynamically(n: Node) -> Grads:
    """Likewise; the range of each run counts as a constant, and nothing saturates."""
    yield 0, n.dy / n.tape.value(n.outputs[1])


@rule("DequantizeLinear")
def _dequantize(n: Node) -> Grads:
    if n.attr("block_size"):
        yield from _block_scales(n)
        return
    if n.wants(0):
        yield 0, n.dy * _scale(n)
    if n.wants(1):
        yield 1, _summed(n, n.dy * (n.x - n.input(2) if n.has(2) else n.x))


def _summed(n: Node, grad: Var) -> Var:
    """The gradient of a scale that serves all elements."""
    if n.shape(1):
        raise NoGradient("it has a scale that is no constant for each channel")
    return grad.sum(list(range(n.rank))).reshape([])


def _block_scales(n: Node) -> Grads:
    """In blocks: the gradient of the scales of constant integers."""
    axis, block = n.attr("axis", 1) % n.rank, n.attr("block_size")
    if n.shape(0)[axis] % block:
        raise NoGradient("its last block is shorter")
    q = n.constant(0).astype(np.float32)
    if n.has(2):
        q = q - np.repeat(n.constant(2).astype(np.float32), block, axis)
    parts = [*n.shape(0)[:axis], n.shape(0)[axis] // block, block, *n.shape(0)[axis + 1 :]]
    yield 1, (n.dy * n.tape.var(q)).reshape(parts).sum([axis + 1], keepdims=False)


def _scale(n: Node) -> Var:
    if n.attr("block_size"):
        raise NoGradient("it quantizes in blocks")
    if n.inputs[1] not in n.tape.forward.constants and not n.shape(1):
        return n.input(1)
    scale = n.constant(1)
    axis = n.attr("axis", 1) % n.rank if n.rank else 0
    return n.tape.var(scale if scale.size == 1 else scale.reshape([-1 if i == axis else 1 for i in range(n.rank)]))


@rule("PRelu")
def _prelu(n: Node) -> Grads:
    yield 0, n.dy * _slope(n, n.input(1))
    yield 1, sum_to(n.dy * n.x * (n.x < 0), n.out_shape, n.shape(1))


def _spread(n: Node, grads: list[Var]) -> Grads:
    for index, grad in enumerate(grads):
        yield index, sum_to(grad, n.out_shape, n.shape(index))


@rule("Add", "Sum")
def _add(n: Node) -> Grads:
    yield from _spread(n, [n.dy] * len(n.inputs))


@rule("Mean")
def _mean(n: Node) -> Grads:
    yield from _spread(n, [n.dy / len(n.inputs)] * len(n.inputs))


@rule("Sub")
def _sub(n: Node) -> Grads:
    yield from _spread(n, [n.dy, -n.dy])


@rule("Mul")
def _mul(n: Node) -> Grads:
    yield from _spread(n, [n.dy * n.input(1), n.dy * n.input(0)])


@rule("Div")
def _div(n: Node) -> Grads:
    yield from _spread(n, [n.dy / n.input(1), -n.dy * n.y / n.input(1)])


@rule("Max", "Min")
def _extreme(n: Node) -> Grads:
    yield from _spread(n, [n.dy * n.input(i).same(n.y) for i in range(len(n.inputs))])


@rule("Pow")
def _pow(n: Node) -> Grads:
    power = n.constant(1).astype(np.float32)
    yield 0, sum_to(n.dy * power * n.x ** (power - 1), n.out_shape, n.shape(0))


@rule("Where")
def _where(n: Node) -> Grads:
    condition = n.input(0)
    yield 1, sum_to(n.dy * condition, n.out_shape, n.shape(1))
    yield 2, sum_to(n.dy * (1 - condition), n.out_shape, n.shape(2))
