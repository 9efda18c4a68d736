"""Networks with random weights, where only shapes count: AlexNet, VGG-16, ResNet-50, and two large layers alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = npt.NDArray[np.float32]
Fill = Callable[[tuple[int, ...]], Weights]
"""Makes the weights of a shape."""

_FACTORS = 256
"""Whose mixtures `activations` are."""

_STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks, and channels of their 3x3 convolutions; blocks have four times as many outputs."""
_SPREAD = 0.5
"""Standard deviation of the logarithm of a channel's factor."""


# ---- plain sequences of layers -------------------------------------------------------------------------------------


def random_weights(shape: tuple[int, ...]) -> Weights:
    """Normal noise of a trained weight's size."""
    rng = np.random.default_rng(prod(shape))
    return rng.standard_normal(shape, np.float32) * np.float32(prod(shape[1:]) ** -0.5)


class Network:
    """A sequence of layers, each with bias and ReLU, on one image [3, size, size]; without `fill`, shapes only."""

    def __init__(self, size: int, fill: Fill | None) -> None:
        self._fill, self._size = fill, size
        self._nodes: list[onnx.NodeProto] = []
        self._tensors: list[onnx.TensorProto] = []
        self._at, self._channels = "x", 3

    def conv(self, name: str, outputs: int, kernel: int, stride: int = 1, pad: int = 0, groups: int = 1) -> None:
        """A convolution, square."""
        self._layer("Conv", name, (outputs, self._channels // groups, kernel, kernel), kernel_shape=[kernel] * 2,
                    strides=[stride] * 2, pads=[pad] * 4, group=groups)  # fmt: skip
        self._channels = outputs

    def pool(self, kernel: int, stride: int) -> None:
        """The largest of each window."""
        self._node("MaxPool", f"pool{len(self._nodes)}", [], kernel_shape=[kernel] * 2, strides=[stride] * 2)

    def dense(self, name: str, inputs: int, outputs: int) -> None:
        """A fully connected layer; the first one flattens."""
        if self._nodes[-1].op_type == "MaxPool":
            self._node("Flatten", "flatten", [])
        self._layer("Gemm", name, (outputs, inputs), transB=1)

    def model(self) -> onnx.ModelProto:
        """The network."""
        x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, self._size, self._size])
        y = helper.make_tensor_value_info(self._at, onnx.TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "network", [x], [y], self._tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

    def _layer(self, op: str, name: str, shape: tuple[int, ...], **attributes: Any) -> None:
        for suffix, dims in (("w", shape), ("b", shape[:1])):
            tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=dims)
            if self._fill:
                tensor.raw_data = self._fill(dims).tobytes()
            tensor.name = f"{name}.{suffix}"
            self._tensors.append(tensor)
        self._node(op, name, [f"{name}.w", f"{name}.b"], **attributes)
        self._node("Relu", f"{name}.relu", [])

    def _node(self, op: str, name: str, more: Sequence[str], **attributes: Any) -> None:
        self._nodes.append(helper.make_node(op, [self._at, *more], [f"{name}.y"], name, **attributes))
        self._at = f"{name}.y"


def alexnet(fill: Fill | None = None, groups: int = 2) -> onnx.ModelProto:
    """Krizhevsky et al. 2012, without its normalisations, which have no weights; one image of 227 x 227."""
    net = Network(227, fill)
    net.conv("conv1", 96, 11, stride=4)
    net.pool(3, 2)
    net.conv("conv2", 256, 5, pad=2, groups=groups)
    net.pool(3, 2)
    net.conv("conv3", 384, 3, pad=1)
    net.conv("conv4", 384, 3, pad=1, groups=groups)
    net.conv("conv5", 256, 3, pad=1, groups=groups)
    net.pool(3, 2)
    for name, inputs, outputs in (("fc6", 256 * 36, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)):
        net.dense(name, inputs, outputs)
    return net.model()


def vgg16() -> onnx.ModelProto:
    """Simonyan & Zisserman 2014, configuration D; shapes only."""
    net = Network(224, None)
    for block, (layers, outputs) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), 1):
        for layer in range(1, layers + 1):
            net.conv(f"conv{block}_{layer}", outputs, 3, pad=1)
        net.pool(2, 2)
    for name, inputs, outputs in (("fc6", 512 * 49, 4096), ("fc7", 4096, 4096), ("fc8", 4096, 1000)):
        net.dense(name, inputs, outputs)
    return net.model()


# ---- ResNet-50 -----------------------------------------------------------------------------------------------------


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(0)

    def layer(self, source: str, shape: tuple[int, ...], stride: int = 1, factor: float = 1.0) -> str:
        """A convolution, or for a matrix a Gemm; returns its output."""
        name, rng = f"layer{len(self.weights) // 2}", self._rng
        values = rng.normal(0, factor * np.sqrt(2 / np.prod(shape[1:])), shape)
        for axis in (0, 1):
            spread = np.exp(rng.normal(-(_SPREAD**2), _SPREAD, shape[axis]))  # of mean square 1
            values *= spread.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        self.weights += [
            numpy_helper.from_array(values.astype(np.float32), f"{name}.weight"),
            numpy_helper.from_array(rng.normal(0, 0.1, shape[0]).astype(np.float32), f"{name}.bias"),
        ]
        options: dict[str, Any] = (
            {"transB": 1} if len(shape) == 2 else {"strides": [stride] * 2, "pads": [shape[2] // 2] * 4}
        )
        return self.add("Gemm" if len(shape) == 2 else "Conv", source, *(w.name for w in self.weights[-2:]), **options)

    def add(self, operator: str, *sources: str, **attributes: Any) -> str:
        """A node; returns its output."""
        output = f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(sources), [output], output, **attributes))
        return output


def resnet50() -> onnx.ModelProto:
    """ResNet-50's shapes: `image` float32 [n, 3, 224, 224] to `logits` float32 [n, 1000], 25.5 million weights.

    He et al. 2016, strides in the 3x3 convolutions, batch normalizations folded. Weights are normal with He's standard
    deviation, times a log-normal factor for each output and each input channel, because trained channels differ as
    much; the last layer of each block is multiplied by 0.3, so that the sums along the shortcuts do not grow.
    """
    net = _Builder()
    value = net.add("Relu", net.layer("image", (64, 3, 7, 7), 2))
    value = net.add("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, (blocks, width) in enumerate(_STAGES):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner = net.add("Relu", net.layer(value, (width, inputs, 1, 1)))
            inner = net.add("Relu", net.layer(inner, (width, width, 3, 3), stride))
            inner = net.layer(inner, (4 * width, width, 1, 1), factor=0.3)
            shortcut = value if block else net.layer(value, (4 * width, inputs, 1, 1), stride)
            value, inputs = net.add("Relu", net.add("Add", inner, shortcut)), 4 * width
    value = net.layer(net.add("Flatten", net.add("GlobalAveragePool", value)), (1000, inputs))
    net.add("Identity", value)
    net.nodes[-1].output[0] = "logits"
    graph = helper.make_graph(
        net.nodes,
        "resnet50",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 1000])],
        net.weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# ---- two large layers ----------------------------------------------------------------------------------------------


def fully_connected() -> onnx.ModelProto:
    """fc7 and fc8 of AlexNet and VGG-16, as a model of `x` float32 [n, 4096].

    Singular values of the weights are 1, 1/2, 1/3, ... of random directions.
    """
    rng, widths = np.random.default_rng(0), (4096, 4096, 1000)
    nodes, tensors, x = [], [], "x"
    for index, (inputs, outputs) in enumerate(pairwise(widths), 7):
        rank = min(inputs, outputs)  # random directions in this many dimensions are almost orthogonal
        u = rng.standard_normal((outputs, rank), np.float32) / np.float32(outputs**0.5)
        v = rng.standard_normal((rank, inputs), np.float32) / np.float32(inputs**0.5)
        w = (u / np.arange(1, rank + 1, dtype=np.float32)) @ v * np.float32(inputs**0.5)
        b = rng.standard_normal(outputs, np.float32) / 100
        tensors += [numpy_helper.from_array(w, f"fc{index}.w"), numpy_helper.from_array(b, f"fc{index}.b")]
        last = index == 8
        nodes.append(
            helper.make_node("Gemm", [x, f"fc{index}.w", f"fc{index}.b"], [f"y{index}"], f"fc{index}", transB=1)
        )
        if not last:
            nodes.append(helper.make_node("Relu", [f"y{index}"], [f"a{index}"]))
        x = f"y{index}" if last else f"a{index}"
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", width]) for name, width in (("x", 4096), (x, 1000))
    ]
    graph = helper.make_graph(nodes, "fc", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def activations() -> Iterator[Weights]:
    """Inputs of `fully_connected`, [32, 4096] each: mixtures of `_FACTORS` factors behind a ReLU."""
    rng = np.random.default_rng(1)
    sizes = np.sqrt(np.arange(1, _FACTORS + 1, dtype=np.float32))
    mix = rng.standard_normal((_FACTORS, 4096), np.float32) / sizes[:, None]
    for _ in range(48):
        yield np.maximum(rng.standard_normal((32, _FACTORS), np.float32) @ mix, 0)
