"""Multiply-accumulates (MACs) and parameters of a model."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from math import prod

import onnx
import onnxruntime
from onnx import TensorProto

from onnxopt.data import Array, session_options
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph.inspect.ort_profile import Kernel, Shape, trace
from onnxopt.graph.normalise import subgraphs, tensors

_NO_WEIGHTS = {TensorProto.INT64, TensorProto.BOOL, TensorProto.STRING}
"""Shapes, axes, indices, masks."""
_INLINED = re.compile(r"^.*__Inline_\d+__/?")
"""The prefix of a node's name after the runtime inlined its branch."""


def _window(weight: int) -> Callable[[Kernel], int]:
    """Each output element takes one filter over the channels of its group: weight[M, C / groups, kernel...]."""
    return lambda k: prod(k.outputs[0]) * prod(k.inputs[weight][1:])


def _transposed(k: Kernel) -> int:
    """Each input element multiplies its slice of weight[C, M / groups, kernel...]; cropped borders count too."""
    return prod(k.inputs[0]) * prod(k.inputs[1][1:])


def _product(k: Kernel) -> int:
    return prod(k.outputs[0]) * k.inputs[0][-1]


def _gemm(k: Kernel) -> int:
    """A[M, K] or, transposed, A[K, M]: either has M * K elements."""
    return prod(k.outputs[0]) * prod(k.inputs[0]) // max(1, k.outputs[0][0])


def _recurrent(k: Kernel) -> int:
    """Every step of every sequence takes W and R of each direction."""
    steps: Shape = k.inputs[0][:2]
    return prod(steps) * (prod(k.inputs[1]) + prod(k.inputs[2]))


_COUNTS: dict[str, Callable[[Kernel], int]] = {
    "Conv": _window(1),
    "FusedConv": _window(1),
    "ConvInteger": _window(1),
    "QLinearConv": _window(3),
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "MatMulInteger": _product,
    "MatMulNBits": _product,
    "QLinearMatMul": _product,
    "Gemm": _gemm,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}


def macs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Multiply-accumulates of one run on `feeds`, by node, in the order of execution.

    They are counted from the shapes that the runtime saw, without graph optimization: free dimensions, branches taken
    and loop iterations are those of `feeds`. A window over padding counts in full. Operators that are not sums of
    products (activations, norms, pooling) are left out.

    A node's key is its name, or ``Conv.7`` if it has none or shares it: its type and its index among all nodes,
    including those of branches and loop bodies.

    Raises OnnxoptError if the model, which has to be below 2 GB, does not run on `feeds`.
    """
    return _of_nodes(_named(model), feeds)


def weight_macs(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """Multiply-accumulates of one run by weight, over all nodes, including those with weights of zero.

    Initializers that no counted node multiplies by, such as biases, are left out. Raises as `macs` does.
    """
    named = _named(model)
    counted = _of_nodes(named, feeds)
    sizes = {tensor.name: prod(tensor.dims) for tensor in named.graph.initializer}
    found: dict[str, int] = {}
    for node in (node for graph in subgraphs(named.graph) for node in graph.node if node.name in counted):
        factors = node.input[1:3] if _COUNTS[node.op_type] is _recurrent else node.input[:2]
        weights = [name for name in factors if name in sizes]
        total = sum(sizes[name] for name in weights)
        for name in weights:  # a recurrent node has two weights
            found[name] = found.get(name, 0) + counted[node.name] * sizes[name] // total
    return found


def _named(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose nodes have unique names."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    taken: set[str] = set()
    for index, node in enumerate(node for graph in subgraphs(named.graph) for node in graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{index}"
        taken.add(node.name)
    return named


def _of_nodes(named: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, int]:
    """See `macs`."""
    taken = {node.name for graph in subgraphs(named.graph) for node in graph.node}
    options = session_options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.disable_prepacking", "1")  # the trace lacks prepacked inputs
    options.log_severity_level = 4
    try:
        content = named.SerializeToString()
        (kernels,) = trace(
            lambda o: onnxruntime.InferenceSession(content, o, providers=["CPUExecutionProvider"]),
            [feeds],
            options,
        )
    except Exception as error:  # the runtime and protobuf raise classes of their own
        raise OnnxoptError(f"multiply-accumulates cannot be counted: {first_line(error)}") from error
    found: dict[str, int] = {}
    for kernel in kernels:
        if kernel.op in _COUNTS:
            plain = _INLINED.sub("", kernel.node)
            key = plain if plain in taken else kernel.node
            found[key] = found.get(key, 0) + _COUNTS[kernel.op](kernel)
    return found


def parameters(model: onnx.ModelProto) -> int:
    """Elements of all weights: all constants except those of int64, bool or text, which are shapes and indices."""
    return sum(prod(t.dims) for t in tensors(model) if t.data_type not in _NO_WEIGHTS)
