"""Rules for ONNX Runtime's own operators (its docs/ContribOperators.md)."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

import numpy as np

from onnxopt.encoding import Array
from onnxopt.graph.autodiff.algebra import flipped, normalised, products, rms_normal, standard_normal
from onnxopt.graph.autodiff.elementwise import gelu
from onnxopt.graph.autodiff.movement import add_at
from onnxopt.graph.autodiff.tape import Node, NoGradient, Var, rule, sum_to

Grads = Iterator[tuple[int, Var]]
_EPSILON = 1e-12
"""Default of the fused normalizations."""


@rule("com.microsoft::FusedMatMul")
def _fused_matmul(n: Node) -> Grads:
    """``Y = alpha A' B'``, where A' and B' may be transposed."""
    if n.attr("transBatchA", 0) or n.attr("transBatchB", 0):
        raise NoGradient("it moves axes of the batch")
    left, right = _side(n, 0), _side(n, 1)
    for index, grad in enumerate(products(left, right, n.dy * float(n.attr("alpha", 1.0)))):
        yield index, flipped(grad, len(n.shape(index))) if _is_turned(n, index) else grad


def _side(n: Node, index: int) -> tuple[Var, tuple[int, ...]]:
    """What is multiplied, and its shape."""
    var, shape = n.input(index), n.shape(index)
    return (flipped(var, len(shape)), (*shape[:-2], shape[-1], shape[-2])) if _is_turned(n, index) else (var, shape)


def _is_turned(n: Node, index: int) -> bool:
    return bool(n.attr(("transA", "transB")[index], 0)) and len(n.shape(index)) > 1


@rule("com.microsoft::SkipLayerNormalization", "com.microsoft::SkipSimplifiedLayerNormalization")
def _skip_norm(n: Node) -> Grads:
    """A normalization of x + skip + bias, and that sum as the fourth output."""
    simple = "Simplified" in n.op
    bias = 3 if simple else 4
    total = n.x + n.input(1) + (n.input(bias) if n.has(bias) else 0.0)
    axes, epsilon = [n.rank - 1], float(n.attr("epsilon", _EPSILON))
    normal, inverse = (rms_normal if simple else standard_normal)(total, epsilon, axes)
    grad = normalised(n.dy * n.input(2), normal, inverse, axes, centred=not simple)
    if len(n.grads) > 3 and n.grads[3] is not None:
        grad = grad + n.grads[3]
    for index in (0, 1, *([bias] if n.has(bias) else [])):
        yield index, sum_to(grad, n.shape(0), n.shape(index))
    yield 2, sum_to(n.dy * normal, n.out_shape, n.shape(2))
    if not simple and n.has(3):
        yield 3, sum_to(n.dy, n.out_shape, n.shape(3))


@rule("com.microsoft::Gelu", "com.microsoft::BiasGelu", "com.microsoft::FastGelu")
def _biased_gelu(n: Node) -> Grads:
    x = n.x + n.input(1) if n.has(1) else n.x
    grad = n.dy * gelu(x, tanh="Fast" in n.op)
    yield 0, grad
    if n.has(1):
        yield 1, sum_to(grad, n.out_shape, n.shape(1))


@rule("com.microsoft::QuickGelu")
def _quick_gelu(n: Node) -> Grads:
    """``y = x sigmoid(alpha x)``"""
    alpha = float(n.attr("alpha", 1.702))
    share = (n.x * alpha).apply("Sigmoid")
    yield 0, n.dy * share * (1 + alpha * n.x * (1 - share))


@rule("com.microsoft::MatMulNBits")
def _matmul_nbits(n: Node) -> Grads:
    """``Y = A W^T + bias`` with ``W[N, K] = (q - zero) scale`` in blocks of inputs."""
    inputs, outputs, block = n.attr("K"), n.attr("N"), n.attr("block_size")
    if n.has(4):
        raise NoGradient("its inputs are in an order of their own")
    blocks = -(-inputs // block)
    q = n.tape.var(_blocked(n, (outputs, blocks, block)))
    dy = n.dy.reshape([-1, outputs])
    surplus = blocks * block - inputs
    w = (q * n.input(2).reshape([outputs, blocks, 1])).reshape([outputs, blocks * block]).pad([0, 0], [0, -surplus])
    yield 0, dy.apply("MatMul", w).reshape(n.shape(0))
    if n.wants(2):
        grad = dy.apply("Gemm", n.x.reshape([-1, inputs]), transA=1).pad([0, 0], [0, surplus])
        yield 2, (grad.reshape([outputs, blocks, block]) * q).sum([2]).reshape(n.shape(2))
    if n.has(5):
        yield 5, dy.sum([0], keepdims=False)


def _blocked(n: Node, shape: tuple[int, int, int]) -> Array:
    """The integers of MatMulNBits less their zeros, float32[outputs, blocks, block]; 0 beyond the inputs."""
    bits = n.attr("bits", 4)
    q = _unpacked(n.constant(1).reshape(*shape[:2], -1), bits)[..., : shape[2]].astype(np.float32)
    zero: Array = np.full((*shape[:2], 1), 2 ** (bits - 1), np.float32)
    if n.has(3):
        given = n.constant(3)
        packed = given.dtype == np.uint8
        zero = _unpacked(given.reshape(shape[0], -1), bits) if packed else given.reshape(shape[:2])
        zero = zero[:, : shape[1], None].astype(np.float32)
    return q - zero


def _unpacked(packed: Array, bits: int) -> Array:
    """Integers of 4 or 8 bits in bytes, the first of two in the low half."""
    if bits == 8:
        return packed
    if bits != 4:
        raise NoGradient(f"its integers have {bits} bits")
    return np.stack((packed & 15, packed >> 4), -1).reshape(*packed.shape[:-1], -1)


@rule("com.microsoft::GatherBlockQuantized")
def _gather_blocks(n: Node) -> Grads:
    """Rows of a table in blocks of small integers: the gradient of the scales."""
    data, block = n.constant(0), n.attr("block_size", 128)
    if data.ndim != 2 or data.dtype == np.uint8 or n.attr("gather_axis", 0) or n.attr("quantize_axis", 1) % 2 != 1:
        raise NoGradient("its table is none of rows in blocks")
    zero = n.constant(3).astype(np.float32) if n.has(3) else np.zeros(n.shape(2), np.float32)
    q = data.astype(np.float32) - np.repeat(zero, block, 1)[:, : data.shape[1]]
    count, blocks, surplus = prod(n.shape(1)), n.shape(2)[1], -data.shape[1] % block
    index = n.input(1).apply("Cast", to=7).reshape([count])
    rows = n.tape.var(q).apply("Gather", index) * n.dy.reshape([count, data.shape[1]])
    grad = rows.pad([0, 0], [0, surplus]).reshape([count, blocks, block]).sum([2], keepdims=False)
    yield 2, add_at(n, index.reshape([count, 1]).expand([count, blocks]), grad, n.shape(2), 0)
