"""Removes from an inner model what its outputs do not depend on, as every deflated byte counts in the file."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from itertools import count, product
from string import ascii_letters

import onnx
from google.protobuf.message import Message

from onnxopt.graph.functions import STANDARD
from onnxopt.graph.normalise import subgraphs
from onnxopt.graph.rewrite.opset import version

_RUNS = {
    onnx.ModelProto: {"ir_version", "opset_import", "graph", "functions"},
    onnx.GraphProto: {"name", "node", "input", "output", "initializer", "sparse_initializer", "value_info"},
    onnx.NodeProto: {"op_type", "domain", "overload", "input", "output", "attribute"},
    onnx.ValueInfoProto: {"name", "type"},
}
"""The fields that a runtime reads. The others name, describe or annotate, or are for training."""
_FLOATS = tuple(map(onnx.TensorProto.DataType.Value, ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16")))


def strip(model: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` that computes the same bits, without redundant names, texts and attributes.

    Values, scalars and small integer tensors get short names, and equal tensors among these become one. Weights, and
    inputs and outputs of all graphs, keep their names. No new name occurs in `source`, so that the parts of it that
    stay outside `model` can be joined with it again.

    Arguments:
        model: hoisted, so that every weight is in the main graph.
        source: the model that it was made of.
    """
    small = onnx.ModelProto()
    small.CopyFrom(model)
    _drop(small)
    for graph in subgraphs(small.graph):
        _drop(graph)
        for value in (*graph.input, *graph.output, *graph.value_info):
            _drop(value)
        for tensor in graph.initializer:
            tensor.ClearField("doc_string")
        for node in graph.node:
            _drop(node)
            _drop_defaults(node, version(model))
    kept = {value.name for graph in subgraphs(small.graph) for value in (*graph.input, *graph.output)}
    kept |= {tensor.name for tensor in small.graph.initializer if _is_weight(tensor)}
    kept |= {tensor.values.name for graph in subgraphs(small.graph) for tensor in graph.sparse_initializer}
    _rename(small, _merge_constants(small.graph, kept))
    taken = {*_names(source), *_names(small)}
    fresh = (name for size in count(1) for name in map("".join, product(ascii_letters, repeat=size)))
    unused = (name for name in fresh if name not in taken)
    used = dict.fromkeys(name for graph in subgraphs(small.graph) for node in graph.node for name in _edges(node))
    _rename(small, {name: next(unused) for name in used if name and name not in kept})
    return small


def _is_weight(tensor: onnx.TensorProto) -> bool:
    stored = tensor.data_location == onnx.TensorProto.EXTERNAL
    return stored or (len(tensor.dims) > 0 and tensor.data_type in _FLOATS)


def _drop(message: Message) -> None:
    for field, _ in message.ListFields():
        if field.name not in _RUNS[type(message)]:
            message.ClearField(field.name)


def _drop_defaults(node: onnx.NodeProto, opset: int) -> None:
    """Drops the attributes that have the default value of the operator's specification."""
    if node.domain not in STANDARD:
        return
    defaults = _defaults(node.op_type, opset)
    for index in reversed(range(len(node.attribute))):
        attribute = node.attribute[index]
        attribute.ClearField("doc_string")
        if defaults.get(attribute.name) == attribute.SerializeToString(deterministic=True):
            del node.attribute[index]


@cache
def _defaults(op: str, opset: int) -> dict[str, bytes]:
    """The operator's attributes that have a default, serialized; none if the operator is unknown."""
    if opset > onnx.defs.onnx_opset_version() or not onnx.defs.has(op):
        return {}
    try:
        attributes = onnx.defs.get_schema(op, opset).attributes.values()
    except onnx.defs.SchemaError:  # newer than the model's opset
        return {}
    defaults = {attribute.name: attribute.default_value for attribute in attributes}
    return {name: value.SerializeToString(deterministic=True) for name, value in defaults.items() if value.name}


def _merge_constants(graph: onnx.GraphProto, kept: set[str]) -> dict[str, str]:
    """Keeps one initializer of each set of equal ones; maps the names of the others to its name."""
    first: dict[bytes, str] = {}
    instead: dict[str, str] = {}
    for index, tensor in enumerate(list(graph.initializer)):
        if tensor.name in kept:
            continue
        bare = onnx.TensorProto()
        bare.CopyFrom(tensor)
        bare.ClearField("name")
        name = first.setdefault(bare.SerializeToString(deterministic=True), tensor.name)
        if name != tensor.name:
            instead[tensor.name] = name
            del graph.initializer[index - len(instead) + 1]
    return instead


def _names(model: onnx.ModelProto) -> Iterable[str]:
    for graph in subgraphs(model.graph):
        for node in graph.node:
            yield from _edges(node)
        yield from (value.name for value in (*graph.input, *graph.output))
        yield from (tensor.name for tensor in graph.initializer)


def _edges(node: onnx.NodeProto) -> tuple[str, ...]:
    return (*node.input, *node.output)


def _rename(model: onnx.ModelProto, names: dict[str, str]) -> None:
    """Renames everywhere at once. New names are unique, so scopes do not change."""
    for graph in subgraphs(model.graph):
        for node in graph.node:
            for edges in (node.input, node.output):
                for index, name in enumerate(edges):
                    edges[index] = names.get(name, name)
        for tensor in graph.initializer:
            tensor.name = names.get(tensor.name, tensor.name)
        for value in graph.value_info:
            value.name = names.get(value.name, value.name)
