"""Weights as matrices: what a linear node multiplies, and what it multiplies it by.

Every linear operator computes ``y[o] = sum_i W[o, i] x[i] + b[o]`` for many vectors x: the rows of a matrix product,
the patches of a convolution. Seen so, one quantizer serves them all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx

from onnxopt.encoding import Array


@dataclass(frozen=True, slots=True)
class Linear(ABC):
    """One node's use of one weight."""

    x: str
    """The value that the weight is multiplied by."""
    y: str
    """The value that comes out."""
    output: str
    """What the layer gives: y, or what becomes of it by a bias and a rectifier where nothing else reads it."""
    shape: tuple[int, ...]
    """Of the weight."""
    bias: str | None
    """The initializer, used nowhere else, that holds ``b[o]``; what the weight's error adds to y on average can be
    taken off it."""

    @property
    def channel_axis(self) -> int:
        """The axis of y that the outputs lie along."""
        return 1

    @abstractmethod
    def matrix(self, weight: Array) -> Array:
        """The weight as ``W[groups, outputs, inputs]``; input i of group g meets ``inputs(...)[g, :, i]``."""

    @abstractmethod
    def tensor(self, matrix: Array) -> Array:
        """The inverse of `matrix`."""

    @abstractmethod
    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        """Vectors ``[groups, vectors, inputs]`` that the weight meets in x: all, or `most` of them at random."""


@dataclass(frozen=True, slots=True)
class _Product(Linear):
    """MatMul and Gemm, the weight on either side; a leading batch of weights makes groups."""

    left: bool
    """The weight is the left operand: y = W x."""
    weight_transposed: bool
    """The tensor holds the transpose of what is multiplied."""
    x_transposed: bool

    @property
    def channel_axis(self) -> int:
        """The axis of y that the outputs lie along."""
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
class _Conv(Linear):
    """Conv in any number of dimensions, ``W[O, C / groups, k...]``."""

    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """Begins, then ends; empty for the automatic padding that `same` names."""
    same: str

    def matrix(self, weight: Array) -> Array:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def tensor(self, matrix: Array) -> Array:
        return matrix.reshape(self.shape)

    def inputs(self, x: Array, most: int, rng: np.random.Generator) -> Array:
        kernel = self.shape[2:]
        pads = self.pads or _same_pads(x.shape[2:], kernel, self.strides, self.dilations, self.same)
        return _patches(x, kernel, self.strides, self.dilations, pads, self.groups, most, rng)


@dataclass(frozen=True, slots=True)
class _ConvTranspose(Linear):
    """ConvTranspose, ``W[C, O / groups, k...]``: a Conv, kernel flipped, of the input with zeros between elements."""

    groups: int
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

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
        kernel, rank = self.shape[2:], len(self.shape) - 2
        spread = np.zeros((*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.strides, strict=True))))
        spread = spread.astype(x.dtype)
        spread[(slice(None), slice(None), *(slice(None, None, s) for s in self.strides))] = x
        reach = [(k - 1) * d for k, d in zip(kernel, self.dilations, strict=True)]
        pads = tuple(r - p for r, p in zip(reach * 2, self.pads, strict=True))
        inside = tuple(slice(max(0, -p), n - max(0, -e)) for p, e, n in zip(pads, pads[rank:], spread.shape[2:],
                                                                           strict=False))  # fmt: skip
        pads = tuple(max(0, p) for p in pads)
        spread = spread[(slice(None), slice(None), *inside)]
        return _patches(spread, kernel, (1,) * rank, self.dilations, pads, self.groups, most, rng)


def _some(rows: Array, most: int, rng: np.random.Generator) -> Array:
    return rows if len(rows) <= most else rows[np.sort(rng.choice(len(rows), most, replace=False))]


def _same_pads(
    size: tuple[int, ...], kernel: tuple[int, ...], strides: tuple[int, ...], dilations: tuple[int, ...], same: str
) -> tuple[int, ...]:
    """Begins and ends that make ``ceil(size / stride)`` outputs; the odd one at the end for SAME_UPPER."""
    total = [
        max(0, (-(-n // s) - 1) * s + (k - 1) * d + 1 - n)
        for n, k, s, d in zip(size, kernel, strides, dilations, strict=True)
    ]
    small, large = [t // 2 for t in total], [t - t // 2 for t in total]
    return (*small, *large) if same == "SAME_UPPER" else (*large, *small)


def _patches(
    x: Array,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
    pads: tuple[int, ...],
    groups: int,
    most: int,
    rng: np.random.Generator,
) -> Array:
    """im2col of ``x[n, C, ...]`` at `most` random positions: ``[groups, positions, C / groups x k...]``."""
    rank = len(kernel)
    if any(pads):
        x = np.pad(x, ((0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)))
    out = tuple((n - (k - 1) * d - 1) // s + 1
                for n, k, s, d in zip(x.shape[2:], kernel, strides, dilations, strict=True))  # fmt: skip
    count = len(x) * prod(out)
    where = np.arange(count) if count <= most else np.sort(rng.choice(count, most, replace=False))
    sample, *corner = np.unravel_index(where, (len(x), *out))
    index = [sample.reshape(-1, *(1,) * rank)]
    for axis in range(rank):
        first = (corner[axis] * strides[axis]).reshape(-1, *(1,) * rank)
        offset = np.arange(kernel[axis]) * dilations[axis]
        index.append(first + offset.reshape(*(-1 if a == axis else 1 for a in range(rank))))
    rows = np.moveaxis(x, 1, -1)[tuple(index)]  # [positions, k..., C]
    return np.ascontiguousarray(np.moveaxis(rows, -1, 1).reshape(len(where), groups, -1).swapaxes(0, 1))


def linear_use(
    node: onnx.NodeProto, path: str, constants: dict[str, onnx.TensorProto], uses: dict[str, list[onnx.NodeProto]]
) -> Linear | None:
    """How `node` multiplies the initializer at `path`; None where it is not a linear operator's weight.

    Arguments:
        constants: every initializer by name.
        uses: the nodes that read each value.
    """
    if not node.output:  # stands for whoever else reads the weight
        return None
    shape = tuple(constants[path].dims)
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    index, output = list(node.input).index(path), _layer_output(node, constants, uses)
    match node.op_type, index:
        case ("Conv", 1):
            rank = len(shape) - 2
            same = attributes.get("auto_pad", b"NOTSET").decode()
            pads = () if same.startswith("SAME") else tuple(attributes.get("pads", (0,) * 2 * rank))
            return _Conv(
                node.input[0], node.output[0], output, shape, _own_bias(node.input, 2, shape[0], constants, uses),
                attributes.get("group", 1), tuple(attributes.get("strides", (1,) * rank)),
                tuple(attributes.get("dilations", (1,) * rank)), pads, same,
            )  # fmt: skip
        case ("ConvTranspose", 1):
            rank = len(shape) - 2
            if attributes.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in attributes:
                return None
            groups, pads = attributes.get("group", 1), attributes.get("pads", (0,) * 2 * rank)
            more = attributes.get("output_padding", (0,) * rank)  # outputs at the ends that are not cut off
            return _ConvTranspose(
                node.input[0], node.output[0], output, shape,
                _own_bias(node.input, 2, groups * shape[1], constants, uses), groups,
                tuple(attributes.get("strides", (1,) * rank)), tuple(attributes.get("dilations", (1,) * rank)),
                (*pads[:rank], *(p - m for p, m in zip(pads[rank:], more, strict=True))),
            )  # fmt: skip
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
            bias = None
            if index == 1 and prod(shape[:-2]) == 1 and len(after) == 1 and after[0].op_type == "Add":
                other = [i for i, name in enumerate(after[0].input) if name != node.output[0]]
                bias = _own_bias(after[0].input, other[0], shape[-1], constants, uses) if other else None
            return _Product(node.input[1 - index], node.output[0], output, shape, bias, index == 0, False, False)
    return None


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
    """What is at `inputs[index]`, where it is a number for each output that nothing else reads."""
    name = inputs[index] if len(inputs) > index else ""
    tensor = constants.get(name)
    if tensor is None or list(tensor.dims) != [outputs] or tensor.data_type != onnx.TensorProto.FLOAT:
        return None
    return name if len(uses.get(name, [])) == 1 else None
