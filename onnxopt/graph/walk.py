"""Walks over all graphs of a model, and names that are free in all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import onnx


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes' attributes, outermost first."""
    yield graph
    for node in graph.node:
        for inner in branches(node):
            yield from subgraphs(inner)


def branches(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in the node's attributes, such as the branches of an If; not those inside them."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> Iterator[str]:
    """Names that a node reads, in its subgraphs too, where some are of values inside them."""
    yield from filter(None, node.input)
    for graph in (inner for branch in branches(node) for inner in subgraphs(branch)):
        yield from (name for one in graph.node for name in one.input if name)
        yield from (value.name for value in graph.output)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of the model: initializers and attributes, in subgraphs and functions too."""
    for graph in subgraphs(model.graph):
        yield from graph.initializer
        yield from _attributes(graph.node)
    for function in model.functions:
        yield from _attributes(function.node)
        for graph in (graph for node in function.node for inner in branches(node) for graph in subgraphs(inner)):
            yield from graph.initializer
            yield from _attributes(graph.node)


def _attributes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            yield from attribute.tensors


def fresh(wanted: str, taken: set[str]) -> str:
    """The wanted name, with a number appended if it is taken. Adds the result to `taken`."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}.{number}"
    taken.add(name)
    return name


def defined(graph: onnx.GraphProto) -> Iterator[str]:
    """Names that this graph itself defines, subgraphs excluded: inputs, initializers and outputs of nodes."""
    yield from (value.name for value in graph.input)
    yield from (tensor.name for tensor in graph.initializer)
    yield from (tensor.values.name for tensor in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def names_taken(model: onnx.ModelProto) -> set[str]:
    """Names that a new value of the model cannot have: those that any of its graphs defines or returns."""
    taken = {name for graph in subgraphs(model.graph) for name in defined(graph)}
    return taken.union(value.name for graph in subgraphs(model.graph) for value in graph.output)


def texts(model: onnx.ModelProto) -> Iterator[str]:
    """Every name in the model's graphs and functions: of values, nodes, operators, domains and attributes."""
    for graph in (graph for function in model.functions for node in function.node for graph in branches(node)):
        yield from _texts(graph)
    yield from _texts(model.graph)
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
        yield from _node_texts(function.node)


def _texts(whole: onnx.GraphProto) -> Iterator[str]:
    for graph in subgraphs(whole):
        yield from defined(graph)
        yield from (value.name for value in graph.output)
        yield from _node_texts(graph.node)


def _node_texts(nodes: Iterable[onnx.NodeProto]) -> Iterator[str]:
    for node in nodes:
        yield from (node.name, node.op_type, node.domain, *node.input)
        yield from (attribute.name for attribute in node.attribute)


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replaces the nodes of the graph by these, some of which may be its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
