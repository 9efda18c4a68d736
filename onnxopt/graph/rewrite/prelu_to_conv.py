"""PRelu as depthwise convolutions: the same function, by kernels that are vectorized and run on all cores.

With slopes s by channel, ``prelu(x) = s x + (1 - s) relu(x)``: a Relu, two depthwise 1 x 1 Conv and an Add. ONNX
Runtime fuses these into three kernels in the blocked layout of the neighbouring convolutions. Its PRelu kernel is a
loop on one core that does not support this layout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.graph.normalise import fresh, names_taken, set_nodes
from onnxopt.graph.rewrite.opset import IMAGES, ranks


def channelwise_prelus(model: onnx.ModelProto) -> list[str]:
    """Outputs of the PRelu nodes of the main graph that take images and float32 slopes for two or more channels."""
    if not any(node.op_type == "PRelu" for node in model.graph.node):
        return []
    known, slopes = ranks(model), {t.name: t for t in model.graph.initializer}
    fed = {value.name for value in model.graph.input}
    return [
        node.output[0]
        for node in model.graph.node
        if node.op_type == "PRelu" and not node.domain and known.get(node.input[0]) == IMAGES
        and node.input[1] not in fed and _by_channel(slopes.get(node.input[1]))
    ]  # fmt: skip


def _by_channel(slope: TensorProto | None) -> bool:
    """Whether it has the shape [c, 1, 1] or [1, c, 1, 1], with c over 1."""
    if slope is None or slope.data_type != TensorProto.FLOAT or len(slope.dims) not in (IMAGES - 1, IMAGES):
        return False
    return slope.dims[-3] == prod(slope.dims) > 1


def prelu_as_convs(model: onnx.ModelProto, values: Collection[str]) -> None:
    """Replaces the PRelu nodes that make these values by convolutions, in place."""
    if not values:
        return
    taken = names_taken(model)
    channels = {tensor.name: prod(tensor.dims) for tensor in model.graph.initializer}
    one = fresh("@one", taken)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), one))
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if node.op_type != "PRelu" or node.output[0] not in values:
            nodes.append(node)
            continue
        shape = fresh(f"{node.output[0]}@shape", taken)
        dims = np.array([channels[node.input[1]], 1, 1, 1], np.int64)
        model.graph.initializer.append(numpy_helper.from_array(dims, shape))
        nodes += _pieces(node, shape, one, int(dims[0]), taken)
    set_nodes(model.graph, nodes)


def _pieces(node: NodeProto, shape: str, one: str, channels: int, taken: set[str]) -> Iterator[NodeProto]:
    """First the nodes of the slopes, which are constant, so that the runtime folds them; then those of x."""
    (x, slopes), y = node.input, node.output[0]
    s, rest, positive, bent, straight = (
        fresh(f"{y}@{part}", taken) for part in ("slopes", "rest", "positive", "bent", "straight")
    )
    name = node.name or y
    yield helper.make_node("Reshape", [slopes, shape], [s], f"{name}@1")
    yield helper.make_node("Sub", [one, s], [rest], f"{name}@2")
    yield helper.make_node("Relu", [x], [positive], f"{name}@3")
    yield helper.make_node("Conv", [positive, rest], [bent], f"{name}@4", group=channels, kernel_shape=[1, 1])
    yield helper.make_node("Conv", [x, s], [straight], f"{name}@5", group=channels, kernel_shape=[1, 1])
    yield helper.make_node("Add", [straight, bent], [y], f"{name}@6")
