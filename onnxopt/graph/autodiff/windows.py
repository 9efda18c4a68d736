"""Rules for convolutions and pooling, in any number of spatial dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np

from onnxopt.encoding import Array
from onnxopt.graph.autodiff import blocked
from onnxopt.graph.autodiff.tape import Node, NoGradient, Var, rule

Grads = Iterator[tuple[int, Var]]


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows of a convolution or a pooling, with one number for each spatial axis."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    before: list[int]
    """Padding in front; a negative number counts the elements that no window reaches."""
    after: list[int]
    """Padding behind, up to the end of the last window; negative as above."""

    def attributes(self) -> dict[str, list[int]]:
        """Attributes of the transposed operator."""
        return {
            "kernel_shape": self.kernel,
            "strides": self.strides,
            "dilations": self.dilations,
            "pads": [*self.before, *(max(p, 0) for p in self.after)],
        }


def _windows(n: Node, kernel: list[int], large: tuple[int, ...], small: tuple[int, ...]) -> Windows:
    """Windows over the spatial shape `large`, one for each position of `small`."""
    count = len(kernel)
    strides, dilations = n.attr("strides", [1] * count), n.attr("dilations", [1] * count)
    reach = [(s - 1) * stride + (k - 1) * d + 1 for s, stride, k, d in zip(small, strides, kernel, dilations)]  # noqa: B905
    need = [r - size for r, size in zip(reach, large, strict=True)]
    match n.attr("auto_pad", "NOTSET"):
        case "SAME_UPPER":
            before = [max(p, 0) // 2 for p in need]
        case "SAME_LOWER":
            before = [(max(p, 0) + 1) // 2 for p in need]
        case "VALID":
            before = [0] * count
        case _:
            before = n.attr("pads", [0] * 2 * count)[:count]
    return Windows(kernel, strides, dilations, before, [p - b for p, b in zip(need, before, strict=True)])


def _scatter(n: Node, grad: Var, weights: Var | Array, at: Windows, group: int = 1) -> Var:
    """Adds `weights` times the gradient of each window at the window's position."""
    unreached = [max(-p, 0) for p in at.after]
    return n.tape.op("ConvTranspose", grad, weights, group=group, output_padding=unreached, **at.attributes())


def _turned(n: Node, at: Windows, group: int) -> Var | None:
    """The input gradient of a convolution as a convolution; None if that is impossible, or takes longer.

    The runtime's ConvTranspose takes twice as long as a convolution in blocks, and three times if it is depthwise.
    """
    edges = [d * (k - 1) for d, k in zip(at.dilations, at.kernel, strict=True)]
    pads = [e - p for e, p in zip(2 * edges, at.before + at.after, strict=True)]
    if max(at.strides) > 1 or min(pads) < 0:
        return None
    if n.inputs[1] not in n.tape.forward.constants:
        return _turned_in_blocks(n, at, pads) if blocked.fits(n.shape(1), group) else None
    weights = np.flip(n.constant(1), tuple(range(2, n.rank)))
    grouped = weights.reshape(group, -1, *weights.shape[1:]).swapaxes(1, 2)
    weights = grouped.reshape(n.shape(0)[1], -1, *at.kernel)
    return n.dy.apply("Conv", weights, group=group, dilations=at.dilations, pads=pads)


def _turned_in_blocks(n: Node, at: Windows, pads: list[int]) -> Var:
    """`_turned` with weights that are no constant."""
    outputs, inputs, taps = *n.shape(1)[:2], prod(at.kernel)
    turned = n.input(1).reshape([outputs, inputs, taps]).apply("Gather", np.arange(taps)[::-1], axis=2)
    shape = [inputs, outputs, *at.kernel]
    kernel = blocked.weights(turned.transpose([1, 0, 2]).reshape(shape), shape)
    return blocked.convolved(blocked.rows_of(n.dy), kernel, shape, dilations=at.dilations, pads=pads)


@dataclass(frozen=True, slots=True)
class _Side:
    """A convolution's input or output."""

    value: Var
    shape: tuple[int, ...]
    """[batch, channels, ...]"""


def _correlate(large: _Side, small: _Side, at: Windows, group: int) -> Var:
    """The gradient of a convolution's weights, ``[small channels, large channels / group, kernel...]``.

    It is the product of the `small` side with the windows of the `large` side. Samples are multiplied one by one, which
    is fastest in the runtime, unless the products would take more memory than the windows.
    """
    batch, channels = large.shape[0], large.shape[1] // group
    if channels == 1:
        return _correlate_channels(large, small, at)
    samples = -(-batch // (blocked.block() or 1)) * (blocked.block() or 1)
    if prod(at.kernel) > 1 and samples < 2 * batch and blocked.fits((small.shape[1], samples, *small.shape[2:]), group):
        return _correlate_in_blocks(large, small, at, samples - batch)
    outputs, places, taps = small.shape[1] // group, prod(small.shape[2:]), prod(at.kernel)
    columns = large.value.reshape([batch, group, channels, -1]).transpose([0, 1, 3, 2])
    indices = _taps(at, large.shape[2:], small.shape[2:])
    if not np.array_equal(indices, np.arange(prod(large.shape[2:]))):
        outside = indices.max() >= prod(large.shape[2:])
        columns = columns.pad([0] * 4, [0, 0, int(outside), 0]).apply("Gather", indices, axis=2)
    if group > 1 or outputs <= places:
        columns = columns.reshape([batch, group, places, taps * channels])
        grad = small.value.reshape([batch, group, outputs, places]).apply("MatMul", columns).sum([0])
    else:
        columns = columns.reshape([batch * places, taps * channels])
        rows = small.value.reshape([batch, outputs, places]).transpose([1, 0, 2])
        grad = rows.reshape([outputs, batch * places]).apply("MatMul", columns)
    grad = grad.reshape([small.shape[1], taps, channels]).transpose([0, 2, 1])
    return grad.reshape([small.shape[1], channels, *at.kernel])


def _correlate_in_blocks(large: _Side, small: _Side, at: Windows, more: int) -> Var:
    """`_correlate` as a convolution in blocks of samples; so many `more` of zeros fill the last one.

    Samples become channels, channels of the large side become samples, and the small side becomes the kernel. So
    strides and dilations change places. Padding is explicit, as there are kernels for whole rows without it alone.
    """
    end, others = [more, 0, 0, 0], range(2, 4)
    shape = [large.shape[1], large.shape[0] + more, *large.shape[2:]]
    rows = blocked.rows_of(large.value.pad([0] * 4, end).transpose([1, 0, *others]))
    rows = blocked.padded(rows, shape, at.before, at.after)
    shape = [small.shape[0] + more, *small.shape[1:]]
    kernel = blocked.samples(small.value.pad([0] * 4, end), shape)
    shape = [shape[1], shape[0], *shape[2:]]
    grad = blocked.convolved(rows, kernel, shape, strides=at.dilations, dilations=at.strides)
    return grad.transpose([1, 0, *others])


def _correlate_channels(large: _Side, small: _Side, at: Windows) -> Var:
    """`_correlate` with a group for each channel of the large side, as a convolution.

    Samples become channels and the small side becomes the kernel, so strides and dilations change places.
    """
    others = range(2, len(large.shape))
    rows = large.value.transpose([1, 0, *others]).reshape([1, -1, *large.shape[2:]])
    rows = rows.pad([0, 0, *(min(p, 0) for p in at.before)], [0, 0, *(min(p, 0) for p in at.after)])
    kernels = small.value.transpose([1, 0, *others])
    pads = [max(p, 0) for p in at.before + at.after]
    turned = {"strides": at.dilations, "dilations": at.strides, "pads": pads}
    return rows.apply("Conv", kernels, group=large.shape[1], **turned).reshape([small.shape[1], 1, *at.kernel])


def _taps(at: Windows, large: tuple[int, ...], small: tuple[int, ...]) -> Array:
    """The index, among the elements of the large side, of each element of each window; for padding, their number."""
    rank = len(large)
    index, inside = np.zeros([1] * 2 * rank, np.int64), np.ones(1, bool)
    for axis in range(rank):
        taps = np.arange(small[axis])[:, None] * at.strides[axis] + np.arange(at.kernel[axis]) * at.dilations[axis]
        taps = taps - at.before[axis]
        taps = taps.reshape([taps.shape[i // rank] if i % rank == axis else 1 for i in range(2 * rank)])
        index, inside = index * large[axis] + taps, inside & (taps >= 0) & (taps < large[axis])
    return np.where(inside, index, prod(large)).ravel()


@rule("Conv")
def _conv(n: Node) -> Grads:
    at, group = _windows(n, list(n.shape(1)[2:]), n.shape(0)[2:], n.out_shape[2:]), n.attr("group", 1)
    yield 0, _turned(n, at, group) or _scatter(n, n.dy, n.input(1), at, group)
    if n.wants(1):
        yield 1, _correlate(_Side(n.x, n.shape(0)), _Side(n.dy, n.out_shape), at, group)
    if n.has(2):
        yield 2, n.dy.sum([i for i in range(n.rank) if i != 1], keepdims=False)


@rule("ConvTranspose")
def _conv_transpose(n: Node) -> Grads:
    kernel, size = list(n.shape(1)[2:]), n.shape(0)[2:]
    at = _windows(n, kernel, n.out_shape[2:], size)
    if n.attr("output_shape") and n.attr("auto_pad", "NOTSET") == "NOTSET":
        before = [p - max(p, 0) // 2 for p in (b + a for b, a in zip(at.before, at.after, strict=True))]
        total = [b + a for b, a in zip(at.before, at.after, strict=True)]
        at = Windows(kernel, at.strides, at.dilations, before, [t - b for t, b in zip(total, before, strict=True)])
    # Crop what output_padding added behind the last window: a convolution would count it.
    cut = [0, 0, *(min(p, 0) for p in at.after)]
    group = n.attr("group", 1)
    yield 0, n.dy.pad([0] * n.rank, cut).apply("Conv", n.input(1), group=group, **at.attributes())
    if n.wants(1):
        yield 1, _correlate(_Side(n.dy, n.out_shape), _Side(n.x, n.shape(0)), at, group)
    if n.has(2):
        yield 2, n.dy.sum([i for i in range(n.rank) if i != 1], keepdims=False)


@rule("AveragePool")
def _average_pool(n: Node) -> Grads:
    kernel, size, out = n.attr("kernel_shape"), n.shape(0)[2:], n.out_shape[2:]
    at = _windows(n, kernel, size, out)
    counts = np.ones((1, 1))
    for axis, k in enumerate(kernel):
        taps = np.arange(out[axis])[:, None] * at.strides[axis] - at.before[axis] + np.arange(k) * at.dilations[axis]
        low, high = 0, size[axis]
        if n.attr("count_include_pad", 0):
            low, high = -at.before[axis], high + _declared_after(n, at, axis)
        counts = counts[..., None] * ((taps >= low) & (taps < high)).sum(1)
    images = n.shape(0)[0] * n.shape(0)[1]
    grad = (n.dy / counts).reshape([images, 1, *out])
    yield 0, _scatter(n, grad, np.ones((1, 1, *kernel), np.float32), at).reshape(n.shape(0))


def _declared_after(n: Node, at: Windows, axis: int) -> int:
    """The node's own padding behind; in ceil mode the last window may reach further."""
    match n.attr("auto_pad", "NOTSET"):
        case "SAME_UPPER" | "SAME_LOWER":
            return max(at.after[axis], 0)
        case "VALID":
            return 0
        case _:
            return int(n.attr("pads", [0] * 2 * len(at.kernel))[len(at.kernel) + axis])


@rule("MaxPool")
def _max_pool(n: Node) -> Grads:
    """The runtime's indices are into the whole input."""
    attributes = {k: v for k, v in n.attributes.items() if k != "storage_order"}
    indices = n.tape.ops("MaxPool", 2, n.x, **attributes)[1]
    flat = n.tape.var(0.0).expand([prod(n.shape(0))])
    flat = flat.apply("ScatterElements", indices.reshape([-1]), n.dy.reshape([-1]), reduction="add")
    yield 0, flat.reshape(n.shape(0))


@rule("GlobalAveragePool")
def _global_average_pool(n: Node) -> Grads:
    yield 0, (n.dy / prod(n.shape(0)[2:])).expand(n.shape(0))


@rule("GlobalMaxPool")
def _global_max_pool(n: Node) -> Grads:
    largest = n.x.same(n.y)
    yield 0, n.dy * largest / largest.sum(range(2, n.rank))


@rule("LRN")
def _local_response(n: Node) -> Grads:
    """``y = x D^-b``, ``D = bias + alpha/size * S(x^2)``, S sums over a window of channels, S^T over its reverse."""
    alpha, beta, bias, size = n.attr("alpha", 1e-4), n.attr("beta", 0.75), n.attr("bias", 1.0), n.attr("size")
    if n.rank < 2:
        raise NoGradient("its input has no channels")
    batch, channels = n.shape(0)[:2]
    before, after = (size - 1) // 2, size // 2

    def window(value: Var, before: int, after: int) -> Var:
        flat = value.reshape([batch, 1, channels, -1])
        ones = np.ones((1, 1, size, 1), np.float32)
        return flat.apply("Conv", ones, pads=[before, 0, after, 0]).reshape(n.shape(0))

    x = n.x
    level = bias + (alpha / size) * window(x * x, before, after)
    spread = window(n.dy * x * level ** (-beta - 1), after, before)
    yield 0, n.dy * level ** (-beta) - (2 * alpha * beta / size) * x * spread
