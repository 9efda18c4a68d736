"""Matrix products in INT8 whose inputs are rounded by their own range in each run.

The operators are DynamicQuantizeLinear and MatMulInteger, so no range has to be calibrated. ONNX Runtime fuses them
with the bias behind them (DynamicQuantizeMatMul, or MatMulIntegerToFloat where products share an input).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

from onnxopt.encoding import Affine, Encoding, Raw, narrowed
from onnxopt.errors import OnnxoptError
from onnxopt.graph.normalise import fresh, names_taken, set_nodes
from onnxopt.graph.rewrite.fusion import FusedOp
from onnxopt.graph.rewrite.opset import OPSET, version
from onnxopt.graph.rewrite.smooth import products


def check(model: onnx.ModelProto, value: str) -> None:
    """Raises OnnxoptError where no matrix product reads the value, or the model's opset is too old."""
    if version(model) < OPSET:
        raise OnnxoptError(f"plan, value {value!r}: dynamic needs operators of version {OPSET}, here they are of "
                           f"version {version(model)}")  # fmt: skip
    if value not in products(model):
        raise OnnxoptError(f"plan, value {value!r}: no matrix product multiplies it by a matrix of its own")


def insert(
    model: onnx.ModelProto, values: Collection[str], weights: Mapping[str, Affine]
) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Makes the products that read these values multiply integers, in place, if their weights are on these grids.

    Returns the weights that are int8 now, and the scales, which are new, by name.
    """
    reading = {
        op.first: op for value, ops in products(model).items() if value in values for op in ops if op.weight in weights
    }
    taken, tensors = names_taken(model), {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[NodeProto] = []
    integers: dict[str, Encoding] = {}
    scales: dict[str, Encoding] = {}
    rounded: dict[str, list[str]] = {}
    for index, node in enumerate(model.graph.node):
        op = reading.get(index)
        if op is None or op.weight is None:
            nodes.append(node)
            continue
        value = op.inputs[0]
        if value not in rounded:
            rounded[value] = [fresh(f"{value}@{part}", taken) for part in ("int", "scale", "zero")]
            nodes.append(helper.make_node("DynamicQuantizeLinear", [value], rounded[value]))
        weight = _laid_out(node, weights[op.weight])
        scale = fresh(f"{op.weight}@scale", taken)
        ones = np.ones(weight.q.shape[1], np.int32)
        k = np.broadcast_to(weight.k, ones.shape).astype(np.int16)
        integers[op.weight] = Raw(weight.q.astype(np.int8))
        scales[scale] = Affine(ones, k, 0, np.dtype(np.float32))
        _describe(tensors[op.weight], weight)
        nodes += _product(node, op, rounded[value], scale, taken)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return integers, scales


def round_inputs(model: onnx.ModelProto, values: Collection[str], weights: Collection[str]) -> None:
    """Rounds these values for their products with these weights as `insert` does, in place, but leaves the products in
    floats, which gradients can pass."""
    reading = {
        op.first: value
        for value, ops in products(model).items()
        if value in values
        for op in ops
        if op.weight in weights
    }
    taken, nodes, rounded = names_taken(model), list[NodeProto](), dict[str, str]()
    for index, node in enumerate(model.graph.node):
        if (value := reading.get(index)) is not None:
            if value not in rounded:
                *grid, rounded[value] = (
                    fresh(f"{value}@{part}", taken) for part in ("int", "scale", "zero", "rounded")
                )
                nodes.append(helper.make_node("DynamicQuantizeLinear", [value], grid))
                nodes.append(helper.make_node("DequantizeLinear", grid, [rounded[value]]))
            for place, name in enumerate(node.input):
                node.input[place] = rounded[value] if name == value else name
        nodes.append(node)
    set_nodes(model.graph, nodes)


def _laid_out(node: NodeProto, weight: Affine) -> Affine:
    """The weight as MatMulInteger takes it, ``[inputs, outputs]``."""
    transposed = any(one.name == "transB" and one.i for one in node.attribute)
    return Affine(narrowed(weight.q.T), weight.k, 1, weight.dtype) if transposed else weight


def _describe(tensor: TensorProto, weight: Affine) -> None:
    """Gives the initializer the type and the shape of the integers."""
    tensor.data_type = TensorProto.INT8
    del tensor.dims[:]
    tensor.dims.extend(weight.q.shape)


def _product(node: NodeProto, op: FusedOp, x: list[str], scale: str, taken: set[str]) -> list[NodeProto]:
    """The nodes that take a product's place; x are the integers of its input, their scale and their zero point."""
    y, bias = node.output[0], op.bias
    sums, floats, steps = (fresh(f"{y}@{part}", taken) for part in ("sums", "floats", "steps"))
    product = fresh(f"{y}@product", taken) if bias else y
    made = [
        helper.make_node("MatMulInteger", [x[0], node.input[1], x[2]], [sums], node.name),
        helper.make_node("Cast", [sums], [floats], to=TensorProto.FLOAT),
        helper.make_node("Mul", [x[1], scale], [steps]),
        helper.make_node("Mul", [floats, steps], [product]),
    ]
    return [*made, helper.make_node("Add", [product, bias], [y])] if bias else made
