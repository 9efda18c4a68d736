"""Low-rank chains: the nodes that replace a layer when its weight is factorised.

A chain is named after its factors: factor ``p`` of weight ``w`` is the initializer ``w@p``, and the node ``n`` that
makes ``y`` becomes nodes ``n@p`` that make ``y@p``; the last one keeps both names and the bias.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph.normalise import names_taken, set_nodes, subgraphs
from onnxopt.graph.rewrite.opset import shapes

Chain = Callable[[NodeProto], list[NodeProto]]
"""Makes the nodes that replace a node."""


def users(model: onnx.ModelProto, name: str) -> list[NodeProto]:
    """The nodes of the main graph that read a value, in graph order."""
    return [node for node in model.graph.node if name in node.input]


def replace(model: onnx.ModelProto, path: str, tensors: Mapping[str, Array], chain: Chain) -> None:
    """Replaces every node that uses the initializer at `path` by a chain, and removes the initializer.

    Arguments:
        tensors: by name, initializers to add or to overwrite.
        chain: called with each user of `path`, all of which are in the main graph.

    Raises OnnxoptError, before any change, if a name of the chains is taken.
    """
    initializers = {t.name: t for t in model.graph.initializer}
    taken = names_taken(model)
    replaced = users(model, path)
    chains = [chain(node) for node in replaced]
    made = [name for nodes in chains for node in nodes[:-1] for name in node.output]
    for name in (*made, *(name for name in tensors if name.startswith(f"{path}@"))):
        if name in taken:
            raise OnnxoptError(f"{path}: cannot be factored, an input or output is called {name!r}; rename it")
    left = {name for node in replaced for name in node.input}
    waiting = iter(chains)
    nodes = [one for node in model.graph.node for one in (next(waiting) if path in node.input else [node])]
    set_nodes(model.graph, nodes)
    left -= {name for graph in subgraphs(model.graph) for node in graph.node for name in node.input}
    left -= {value.name for graph in subgraphs(model.graph) for value in graph.output}
    # Nodes that only the replaced nodes read, such as a Flatten that their chains bypass.
    set_nodes(model.graph, [node for node in model.graph.node if not left.issuperset(node.output)])
    for name, array in tensors.items():
        tensor = initializers.get(name) or model.graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), name))
    del model.graph.initializer[[t.name for t in model.graph.initializer].index(path)]


def convolutions(node: NodeProto, path: str, parts: Sequence[tuple[str, Collection[int]]]) -> list[NodeProto]:
    """A Conv as a chain of Convs.

    Arguments:
        parts: name and spatial axes of each factor, in the order of computation. Along these axes it has the node's
            strides, pads and dilations; along the others its kernel has length 1.
    """
    chain, x = [], node.input[0]
    for part, axes in parts:
        one = _link(node, path, part, last=part == parts[-1][0])
        one.input[:] = [x, f"{path}@{part}"]
        if part == parts[-1][0]:
            one.input.extend(node.input[2:])
        x = one.output[0]
        del one.attribute[:]
        one.attribute.extend(kept for a in node.attribute if (kept := _along(a, axes)) is not None)
        chain.append(one)
    return chain


def outputs_first(node: NodeProto, path: str) -> bool:
    """Whether a MatMul or Gemm takes the tensor as ``W[outputs, inputs]``, not as its transpose."""
    index = list(node.input).index(path)
    transposed = any(a.name == ("transA", "transB")[index] and a.i for a in node.attribute)
    return (index == 0) != transposed


def meets_matrices(model: onnx.ModelProto, node: NodeProto, path: str) -> bool:
    """Whether the other operand of a MatMul is known to have two or more axes."""
    index = list(node.input).index(path)
    return len(shapes(model).get(node.input[1 - index], ())) > 1


def wants_bias(model: onnx.ModelProto) -> bool:
    """Whether Gemm requires a bias: before opset 11."""
    return any(opset.domain in ("", "ai.onnx") and opset.version < 11 for opset in model.opset_import)


def products(node: NodeProto, path: str, left: str, right: str, zero: str = "") -> list[NodeProto]:
    """A MatMul or Gemm as two, for a weight tensor that is the product of the factors `left` and `right`.

    Arguments:
        zero: the part that is the inner Gemm's bias, if it `wants_bias`.
    """
    index = list(node.input).index(path)
    inner, outer = (right, left) if outputs_first(node, path) else (left, right)
    first, second = _link(node, path, inner, last=False), _link(node, path, outer, last=True)
    first.input[:] = node.input[:2]
    first.input[index] = f"{path}@{inner}"
    if zero and node.op_type == "Gemm":
        first.input.append(f"{path}@{zero}")
    second.input[index], second.input[1 - index] = f"{path}@{outer}", first.output[0]
    for one, dropped in ((first, ("alpha", "beta")), (second, (("transB", "transA")[index],))):
        kept = [a for a in node.attribute if a.name not in dropped]
        del one.attribute[:]
        one.attribute.extend(kept)
    return [first, second]


@dataclass(frozen=True, slots=True)
class Flattened:
    """A matrix product of ``x[n, *shape]`` flattened to rows: a convolution whose kernel is as large as x."""

    x: str
    shape: tuple[int, ...]
    """Channels, then spatial axes."""

    def chain(self, node: NodeProto, path: str, before: Sequence[str], last: str) -> list[NodeProto]:
        """A MatMul or Gemm as Convs with the factors `before`, Flatten, and the product with the factor `last`."""
        made, x = [], self.x
        for part in before:
            made.append(
                helper.make_node("Conv", [x, f"{path}@{part}"], [f"{node.output[0]}@{part}"], _name(node, part))
            )
            x = f"{node.output[0]}@{part}"
        flat = f"{node.output[0]}@flat"
        made.append(helper.make_node("Flatten", [x], [flat], _name(node, "flat")))
        product = _link(node, path, last, last=True)
        product.input[0], product.input[1] = flat, f"{path}@{last}"
        return [*made, product]


def flattened(model: onnx.ModelProto, node: NodeProto, inputs: int) -> Flattened | None:
    """The product ``x W`` behind a Flatten or a Reshape to rows of length `inputs`; None for any other node."""
    makers = {name: one for one in model.graph.node for name in one.output}
    maker = makers.get(node.input[0])
    if maker is None or any(a.name == "transA" and a.i for a in node.attribute):
        return None
    if maker.op_type == "Flatten":
        if any(a.name == "axis" and a.i != 1 for a in maker.attribute):
            return None
    elif maker.op_type != "Reshape" or not (node.op_type == "Gemm" or _makes_rows(model, maker)):
        return None
    shape = shapes(model).get(maker.input[0], ())[1:]
    return Flattened(maker.input[0], shape) if len(shape) > 1 and prod(shape) == inputs else None


def _makes_rows(model: onnx.ModelProto, reshape: NodeProto) -> bool:
    """Whether the Reshape makes a matrix: its shape is a constant of two numbers."""
    return any(t.name == reshape.input[1] and list(t.dims) == [2] for t in model.graph.initializer)


def _name(node: NodeProto, part: str) -> str:
    return f"{node.name}@{part}" if node.name else ""


def _link(node: NodeProto, path: str, part: str, last: bool) -> NodeProto:
    """A copy of the node, for one factor."""
    one = NodeProto()
    one.CopyFrom(node)
    if not last:
        one.name, one.output[0] = _name(node, part), f"{node.output[0]}@{part}"
    return one


def _along(attribute: onnx.AttributeProto, axes: Collection[int]) -> onnx.AttributeProto | None:
    """A Conv's attribute as a factor has it; None if it is the operator's default."""
    if attribute.name == "auto_pad":
        return attribute if axes else None
    neutral = {"strides": 1, "dilations": 1, "pads": 0}
    if attribute.name == "kernel_shape":
        return None  # the weight's shape implies it
    if attribute.name not in neutral:
        return attribute
    rank = len(attribute.ints) // (2 if attribute.name == "pads" else 1)
    values = [v if i % rank in axes else neutral[attribute.name] for i, v in enumerate(attribute.ints)]
    return helper.make_attribute(attribute.name, values) if axes else None
