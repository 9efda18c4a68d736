"""One form for the models of all exporters: weights are initializers of unique names, and not model inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_MIN_IR = 4  # from this version on, an initializer that is not an input is a constant


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes' attributes, outermost first."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from subgraphs(attribute.g)
            for inner in attribute.graphs:
                yield from subgraphs(inner)


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every constant of the model: initializers and attributes, in subgraphs too."""
    for graph in subgraphs(model.graph):
        yield from graph.initializer
        for node in graph.node:
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


def names_taken(model: onnx.ModelProto) -> set[str]:
    """Names that a new value of the model cannot have."""
    taken = {*(tensor.name for tensor in model.graph.initializer), *(value.name for value in model.graph.input)}
    taken.update(name for graph in subgraphs(model.graph) for node in graph.node for name in node.output)
    return taken


def set_nodes(graph: onnx.GraphProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Replaces the nodes of the graph by these, some of which may be its own."""
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def normalise(model: onnx.ModelProto) -> None:
    """Brings `model` into the form that `Graph` works on, in place. It computes the same as before."""
    model.ir_version = max(model.ir_version, _MIN_IR)
    for graph in subgraphs(model.graph):
        _drop_inferable_types(graph)
        _constants_to_initializers(graph)
    taken = {tensor.name for tensor in model.graph.initializer}
    for graph in subgraphs(model.graph):
        taken.update(value.name for value in (*graph.input, *graph.output))
        taken.update(output for node in graph.node for output in node.output)
    for graph in subgraphs(model.graph):
        if graph is not model.graph:
            _make_names_unique(graph, taken)
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _drop_inferable_types(graph: onnx.GraphProto) -> None:
    """Drops the types of inner values, which the runtime infers; those of operators that it may not know stay."""
    foreign = {name for node in graph.node if node.domain not in _STANDARD for name in node.output}
    kept = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:]
    graph.value_info.extend(kept)


def _constants_to_initializers(graph: onnx.GraphProto) -> None:
    kept = []
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        is_tensor = node.op_type == "Constant" and not node.domain and [a.name for a in node.attribute] == ["value"]
        if is_tensor and node.output[0] not in outputs:
            tensor = graph.initializer.add()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
        else:
            kept.append(node)
    if len(kept) < len(graph.node):
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
        del graph.node[:]
        graph.node.extend(copies)


def _make_names_unique(graph: onnx.GraphProto, taken: set[str]) -> None:
    """Renames initializers that another graph has too: both branches of an If may call a weight ``w``."""
    for tensor in graph.initializer:
        name, number = tensor.name, 1
        while name in taken:
            number += 1
            name = f"{tensor.name}.{number}"
        taken.add(name)
        if name != tensor.name:
            _rename(graph, tensor.name, name)
            tensor.name = name


def hoist(model: onnx.ModelProto) -> None:
    """Moves the initializers of branches and loop bodies to the main graph, where they can be stored and fed.

    Subgraphs see the names of enclosing graphs, so nothing else changes. Call `normalise` first.
    """
    for graph in subgraphs(model.graph):
        if graph is not model.graph:
            model.graph.initializer.extend(graph.initializer)
            del graph.initializer[:]


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    for inner in subgraphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new
        for value in inner.output:
            if value.name == old:
                value.name = new
