"""Weight-only quantization at run time: MatMulNBits nodes for weights that are `Blockwise`.

ONNX Runtime's operator MatMulNBits (domain com.microsoft) takes ``x[..., K]`` and a constant ``W[N, K]`` in integers of
4 or 8 bits with a scale for every block of a row, and reads the integers from memory: at batch 1 a large product takes
as long as its weights take to be read. It is there since 1.17 with 4 bits, since 1.22 with 8.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from onnxopt.encoding import Blockwise, Encoding
from onnxopt.graph.normalise import fresh, names_taken, set_nodes, subgraphs

_DOMAIN = "com.microsoft"
_SINCE = {4: (1, 17), 8: (1, 22)}
"""Versions of ONNX Runtime that run it on a CPU, by bits."""
_INT8 = 4
"""The attribute `accuracy_level` that lets the kernel round blocks of x to 8 bits, where the processor has products of
integers; elsewhere it multiplies floats all the same."""


def obstacle(model: onnx.ModelProto, path: str, bits: int) -> str:
    """Why MatMulNBits cannot take the place of what multiplies by the initializer at `path`; empty where it can."""
    if tuple(map(int, onnxruntime.__version__.split(".")[:2])) < _SINCE[bits]:
        return f"MatMulNBits of {bits} bits needs ONNX Runtime {'.'.join(map(str, _SINCE[bits]))}"
    (tensor,) = [t for t in model.graph.initializer if t.name == path]
    used = [(node, index) for graph in subgraphs(model.graph) for node in graph.node
            for index, name in enumerate(node.input) if name == path]  # fmt: skip
    shown = any(value.name == path for graph in subgraphs(model.graph) for value in graph.output)
    if len(used) != 1 or shown:
        return "others use the weight, too"
    ((node, index),) = used
    if not any(node is one for one in model.graph.node):
        return "it is inside a branch or a loop"
    if node.domain or node.op_type not in ("MatMul", "Gemm") or index != 1:
        return f"it is input {index} of {node.op_type}, no right side of a matrix product"
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2:
        return "it is no matrix of float32 numbers"
    if _attributes(node).get("transA"):
        return "Gemm transposes the other side"
    return ""


def insert(model: onnx.ModelProto, stored: dict[str, Encoding]) -> None:
    """Puts MatMulNBits in the place of every product with a `Blockwise` weight, in place.

    Of a Gemm the bias is added by an Add, as the operator has none in all versions. Where x is empty, so is y.

    Arguments:
        stored: the stored weights by name; the scales are added.
    """
    blocked = {path: weight for path, weight in stored.items() if isinstance(weight, Blockwise)}
    if not blocked:
        return
    taken = names_taken(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        path = next((name for name in node.input if name in blocked), None)
        if path is None:
            nodes.append(node)
            continue
        weight, attributes = blocked[path], _attributes(node)
        scales = fresh(f"{path}@scales", taken)
        stored[scales] = scale = weight.scales(attributes.get("alpha", 1.0))
        _describe(tensors[path], TensorProto.UINT8, weight.run_time_tensor().shape)
        added = model.graph.initializer.add()
        added.CopyFrom(tensors[path])
        added.name = scales
        _describe(added, TensorProto.FLOAT, scale.index.shape)
        nodes += _product(model, node, weight, scales, taken)
    set_nodes(model.graph, nodes)
    if all(one.domain != _DOMAIN for one in model.opset_import):
        model.opset_import.add(domain=_DOMAIN, version=1)


def _product(
    model: onnx.ModelProto, node: NodeProto, weight: Blockwise, scales: str, taken: set[str]
) -> list[NodeProto]:
    """The nodes that take a product's place."""
    outputs, inputs = weight.q.shape
    y, beta = node.output[0], _attributes(node).get("beta", 1.0)
    bias = node.input[2] if len(node.input) > 2 and beta else ""
    made = helper.make_node(
        "MatMulNBits", [node.input[0], node.input[1], scales], [fresh(f"{y}@product", taken) if bias else y], node.name,
        domain=_DOMAIN, K=inputs, N=outputs, bits=weight.bits, block_size=weight.block, accuracy_level=_INT8,
    )  # fmt: skip
    if not bias:
        return [made]
    nodes = [made]
    if beta != 1:
        factor = numpy_helper.from_array(np.asarray(beta, np.float32), fresh(f"{y}@beta", taken))
        model.graph.initializer.append(factor)
        nodes.append(helper.make_node("Mul", [bias, factor.name], [fresh(f"{y}@bias", taken)]))
        bias = nodes[-1].output[0]
    return [*nodes, helper.make_node("Add", [made.output[0], bias], [y])]


def _describe(tensor: TensorProto, kind: int, shape: tuple[int, ...]) -> None:
    tensor.data_type = kind
    del tensor.dims[:]
    tensor.dims.extend(shape)


def _attributes(node: NodeProto) -> Mapping[str, float]:
    """Of a Gemm: all of them are numbers."""
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}
