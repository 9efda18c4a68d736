"""Weights of linear operators as matrices, with the vectors that they are multiplied by.

Every linear operator computes ``y[o] = sum_i W[o, i] x[i] + b[o]`` for many vectors x: the rows of a matrix product,
the patches of a convolution. In this view one quantizer serves them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
import onnx

from onnxopt.encoding import Array
from onnxopt.graph.functions import RUNTIME, STANDARD


@dataclass(frozen=True, slots=True)
class Linear(ABC):
    """One node's use of one weight."""

    x: str
    """The value that the weight is multiplied by."""
    y: str
    """The node's output."""
    output: str
    """The layer's output: y, or what a bias and a rectifier that alone read it make of it."""
    shape: tuple[int, ...]
    """Of the weight."""
    bias: str | None
    """The initializer, used nowhere else, that holds ``b[o]``. It can correct the mean of the error in y."""

    @property
    def channel_axis(self) -> int:
        """The axis of y that holds the outputs."""
        return 1

    @abstractmethod
    def matrix(self, weight: Array) -> Array:
        """The weight as ``W[groups, outputs, inputs]``; input i of group g multiplies ``inputs(...)[g, :, i]``."""

    @abstractmethod
    def tensor(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""

    @abstractmethod
    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        """Vectors ``[groups, vectors, inputs]`` that the weight multiplies in x: all, or a random sample of `most`."""


@dataclass(frozen=True, slots=True)
class _Product(Linear):
    """MatMul and Gemm with the weight on either side; the matrices of a batch of weights are groups."""

    left: bool
    """The weight is the left operand: y = W x."""
    weight_transposed: bool
    """The tensor holds the transpose of what is multiplied."""
    x_transposed: bool

    @property
    def channel_axis(self) -> int:
        """See `Linear`."""
        return -2 if self.left else -1

    def matrix(self, weight: Array) -> Array:
        stack = weight.reshape(-1, *weight.shape[-2:])
        return stack if self.left != self.weight_transposed else stack.swapaxes(1, 2)

    def tensor(self, matrix: Array) -> Array:
        stack = matrix if self.left != self.weight_transposed else matrix.swapaxes(1, 2)
        return np.ascontiguousarray(stack).reshape(self.shape)

    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        if x.ndim == 1:
            x = x[:, None] if self.left else x[None]
        if self.left != self.x_transposed:
            x = x.swapaxes(-1, -2)
        batch = self.shape[:-2]
        if prod(batch) == 1:
            return _some(x.reshape(-1, x.shape[-1]), most, rng)[None]
        shape = np.broadcast_shapes(x.shape[:-2], batch)
        group = np.broadcast_to(np.arange(prod(batch)).reshape(batch), shape).ravel()
        x = np.broadcast_to(x, shape + x.shape[-2:]).reshape(len(group), *x.shape[-2:])
        rows = x[np.argsort(group, kind="stable")].reshape(prod(batch), -1, x.shape[-1])
        return _some(rows.swapaxes(0, 1), most, rng).swapaxes(0, 1)


@dataclass(frozen=True, slots=True)
class _Window:
    """Where a convolution's kernel lies on its input; one number for each spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Begins, then ends."""

    def same(self, size: tuple[int, ...], mode: str) -> _Window:
        """With the pads that make ``ceil(size / stride)`` outputs; the odd one at the end for SAME_UPPER."""
        total = [
            max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
            for n, k, s, d in zip(size, self.kernel, self.strides, self.dilations, strict=True)
        ]
        small, large = [t // 2 for t in total], [t - t // 2 for t in total]
        return replace(self, pads=(*small, *large) if mode == "SAME_UPPER" else (*large, *small))

    def patches(self, x: Array, groups: int, most: int, rng: np.random.Generator) -> Array:
        """im2col of ``x[n, C, ...]`` at `most` random positions: ``[groups, positions, C / groups x k...]``."""
        rank = len(self.kernel)
        if any(self.pads):
            x = np.pad(x, ((0, 0), (0, 0), *zip(self.pads[:rank], self.pads[rank:], strict=True)))
        along = zip(x.shape[2:], self.kernel, self.strides, self.dilations, strict=True)
        out = tuple((n - (k - 1) * d - 1) // s + 1 for n, k, s, d in along)
        count = len(x) * prod(out)
        where = np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
        sample, *corner = np.unravel_index(where, (len(x), *out))
        index = [sample.reshape(-1, *(1,) * rank)]
        for axis in range(rank):
            first = (corner[axis] * self.strides[axis]).reshape(-1, *(1,) * rank)
            offset = np.arange(self.kernel[axis]) * self.dilations[axis]
            index.append(first + offset.reshape(*(-1 if a == axis else 1 for a in range(rank))))
        rows = np.moveaxis(x, 1, -1)[tuple(index)]  # [positions, k..., C]
        return np.ascontiguousarray(np.moveaxis(rows, -1, 1).reshape(len(where), groups, -1).swapaxes(0, 1))


@dataclass(frozen=True, slots=True)
class _Conv(Linear):
    """Conv in any number of dimensions, ``W[O, C / groups, k...]``."""

    groups: int
    window: _Window
    auto_pad: str
    """As the operator has it; the SAME modes override the window's pads."""

    def matrix(self, weight: Array) -> Array:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def tensor(self, matrix: Array) -> Array:
        return matrix.reshape(self.shape)

    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        same = self.auto_pad.startswith("SAME")
        window = self.window.same(x.shape[2:], self.auto_pad) if same else self.window
        return window.patches(x, self.groups, most, rng)


@dataclass(frozen=True, slots=True)
class _ConvTranspose(Linear):
    """ConvTranspose, ``W[C, O / groups, k...]``: a Conv, its kernel flipped, of x with zeros between the elements."""

    groups: int
    window: _Window
    """Its strides spread the elements of x, its pads crop y."""

    def matrix(self, weight: Array) -> Array:
        flipped = np.flip(weight, tuple(range(2, weight.ndim)))
        by_group = flipped.reshape(self.groups, -1, *weight.shape[1:]).swapaxes(1, 2)
        return np.ascontiguousarray(by_group).reshape(self.groups, weight.shape[1], -1)

    def tensor(self, matrix: Array) -> Array:
        kernel = self.shape[2:]
        by_group = matrix.reshape(self.groups, self.shape[1], -1, *kernel).swapaxes(1, 2)
        flipped = np.flip(by_group, tuple(range(3, by_group.ndim)))
        return np.ascontiguousarray(flipped).reshape(self.shape)

    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        strides, rank = self.window.strides, len(self.shape) - 2
        spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], strides, strict=True))))
        spread = spread.astype(x.dtype)
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = x
        reach = [(k - 1) * d for k, d in zip(self.window.kernel, self.window.dilations, strict=True)]
        pads = tuple(r - p for r, p in zip(reach * 2, self.window.pads, strict=True))
        inside = tuple(slice(max(0, -p), n - max(0, -e)) for p, e, n in zip(pads, pads[rank:], spread.shape[2:],
                                                                           strict=False))  # fmt: skip
        window = replace(self.window, strides=(1,) * rank, pads=tuple(max(0, p) for p in pads))
        return window.patches(spread[(slice(None), slice(None), *inside)], self.groups, most, rng)


def _some(rows: Array, most: int, rng: np.random.Generator) -> Array:
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def linear_use(
    node: onnx.NodeProto, path: str, constants: dict[str, onnx.TensorProto], uses: dict[str, list[onnx.NodeProto]]
) -> Linear | None:
    """How `node` multiplies the initializer at `path`; None if that is not the weight of a linear operator.

    Arguments:
        constants: every initializer by name.
        uses: the nodes that read each value.
    """
    op = _operator(node)
    if not node.output or not op:  # without outputs it stands for a reader such as a subgraph
        return None
    shape = tuple(constants[path].dims)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    index, output = list(node.input).index(path), _layer_output(node, constants, uses)
    match op, index:
        case ("Conv", 1):
            bias = _own_bias(node.input, 2, shape[0], constants, uses)
            auto_pad = attributes.get("auto_pad", b"NOTSET").decode()
            return _Conv(node.input[0], node.output[0], output, shape, bias, attributes.get("group", 1),
                         _window(shape[2:], attributes), auto_pad)  # fmt: skip
        case ("ConvTranspose", 1):
            if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in attributes:
                return None
            rank, groups = len(shape) - 2, attributes.get("group", 1)
            window = _window(shape[2:], attributes)
            kept = attributes.get("output_padding", (0,) * rank)  # outputs at the ends that are not cropped
            ends = (p - k for p, k in zip(window.pads[rank:], kept, strict=True))
            bias = _own_bias(node.input, 2, groups * shape[1], constants, uses)
            return _ConvTranspose(node.input[0], node.output[0], output, shape, bias, groups,
                                  replace(window, pads=(*window.pads[:rank], *ends)))  # fmt: skip
        case ("Gemm", 0 | 1):
            left = index == 0
            plain = attributes.get("alpha", 1.0) == 1 and attributes.get("beta", 1.0) == 1 and not left
            flags = [bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))]
            bias = _own_bias(node.input, 2, shape[0 if flags[1] else 1], constants, uses) if plain else None
            return _Product(
                node.input[1 - index], node.output[0], output, shape, bias, left, flags[index], flags[1 - index]
            )
        case ("MatMul", 0 | 1) if len(shape) >= 2:
            after = uses.get(node.output[0], [])
            flags = [bool(attributes.get("transA", 0)), bool(attributes.get("transB", 0))]
            plain = index == 1 and prod(shape[:-2]) == 1 and attributes.get("alpha", 1.0) == 1
            bias = None
            if plain and len(after) == 1 and after[0].op_type == "Add":
                other = [i for i, name in enumerate(after[0].input) if name != node.output[0]]
                outputs = shape[-2 if flags[1] else -1]
                bias = _own_bias(after[0].input, other[0], outputs, constants, uses) if other else None
            return _Product(
                node.input[1 - index], node.output[0], output, shape, bias, index == 0, flags[index], flags[1 - index]
            )
        case ("Attention", 1):  # multiplied first, by queries, keys and values side by side
            bias = _own_bias(node.input, 2, shape[1], constants, uses)
            return _Product(node.input[0], node.output[0], output, shape, bias, False, False, False)
    return None


_FUSED = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul", "Attention": "Attention"}
"""The runtime's operators that multiply by a weight as one of ONNX's does, or at first."""


def _operator(node: onnx.NodeProto) -> str:
    """What a node multiplies as; empty where it does not."""
    if node.domain == RUNTIME:
        moved = any(a.name in ("transBatchA", "transBatchB") and a.i for a in node.attribute)
        return "" if moved else _FUSED.get(node.op_type, "")
    return node.op_type if node.domain in STANDARD and node.op_type != "Attention" else ""


def _window(kernel: tuple[int, ...], attributes: dict[str, Any]) -> _Window:
    rank = len(kernel)
    strides, dilations = (tuple(attributes.get(name, (1,) * rank)) for name in ("strides", "dilations"))
    return _Window(kernel, strides, dilations, tuple(attributes.get("pads", (0,) * 2 * rank)))


def _layer_output(
    node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], uses: dict[str, list[onnx.NodeProto]]
) -> str:
    """See `Linear.output`."""
    value = node.output[0]
    for ops in (("Add",), ("Relu", "Clip")):
        after = uses.get(value, [])
        if (
            len(after) == 1
            and after[0].op_type in ops
            and all(name in constants for name in after[0].input if name not in ("", value))
        ):
            value = after[0].output[0]
    return value


def _own_bias(
    inputs: Sequence[str],
    index: int,
    outputs: int,
    constants: dict[str, onnx.TensorProto],
    uses: dict[str, list[onnx.NodeProto]],
) -> str | None:
    """The initializer at `inputs[index]` if it holds one number for each output and nothing else reads it."""
    name = inputs[index] if len(inputs) > index else ""
    tensor = constants.get(name)
    if tensor is None or list(tensor.dims) != [outputs] or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return name if len(uses.get(name, [])) == 1 else None
