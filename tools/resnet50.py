"""A network of ResNet-50's shapes with 25.5 million random weights, to measure time and memory on.

The network: He et al., 2016, strides in the 3x3 convolutions, batch normalizations folded. Weights are normal with He's
standard deviation, times a log-normal factor for each output and each input channel, because trained channels differ as
much; the last of each block is times 0.3, so that the sums along the shortcuts do not grow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))
"""Blocks, and channels of their 3x3 convolutions; blocks have four times as many outputs."""
_SPREAD = 0.5
"""Standard deviation of the logarithm of a channel's factor."""


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


def model() -> onnx.ModelProto:
    """`image` float32 [n, 3, 224, 224] to `logits` float32 [n, 1000]; the same on every run."""
    net = _Builder()
    value = net.add("Relu", net.layer("image", (64, 3, 7, 7), 2))
    value = net.add("MaxPool", value, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    inputs = 64
    for stage, (blocks, width) in enumerate(STAGES):
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


def write(path: Path) -> None:
    """The model as a file."""
    path.write_bytes(model().SerializeToString())
