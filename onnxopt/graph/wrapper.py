"""The outer model: the original's interface around one node that holds the container."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx
from google.protobuf.message import Message
from onnx import helper

from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.files.set_aside import tensor_of, whole
from onnxopt.graph.inspect.expose import runtime_types, without_weights
from onnxopt.graph.normalise import fresh, subgraphs
from onnxopt.graph.onnx_file import DOMAIN, OP, PAYLOAD, STAMP
from onnxopt.native import varint

_OPSET = 1


def split(model: onnx.ModelProto) -> tuple[onnx.ModelProto, list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Splits `model` into an inner model with only tensors at its border, and the nodes that must stay outside.

    A custom node takes and returns tensors. If an input or output of the model is a sequence, a map or an optional, the
    nodes that read or make it, and all that follow them, stay in the outer graph (scikit-learn's ZipMap, for example).

    The inner model has the inputs of `model`, those that no node reads included, and its outputs, initializers
    included. Missing are the inputs that only nodes outside read, and the outputs that those nodes or no nodes make.

    Returns the inner model, the nodes outside, and the initializers that they read. Raises OnnxoptError if the type of
    a value at the border is neither declared nor found by the runtime, or if no tensor is left that the inner model
    could return.
    """
    graph = model.graph
    types = _types(model)
    outside_ids = _border_nodes(graph, {name for name, kind in types.items() if kind is None})
    outside = [node for i, node in enumerate(graph.node) if i in outside_ids]
    inside = [node for i, node in enumerate(graph.node) if i not in outside_ids]
    read = set().union(*map(_names_used, outside))
    returned = {value.name for value in graph.output}
    made = [name for node in inside for name in node.output if name in read | returned]
    made += [t.name for t in graph.initializer if t.name in returned]
    used = set().union(*map(_names_used, inside), returned)
    inner = onnx.ModelProto()
    inner.CopyFrom(model)
    del inner.graph.input[:], inner.graph.output[:], inner.graph.node[:], inner.graph.initializer[:]
    inner.graph.name = "g"
    inner.graph.node.extend(inside)
    inner.graph.initializer.extend(t for t in graph.initializer if t.name in used)
    inner.graph.input.extend(v for v in graph.input if _is_tensor(v.type) and (v.name in used or v.name not in read))
    declared = [value.name for value in graph.output if value.name in made]
    for name in dict.fromkeys((*declared, *made)):
        inner.graph.output.append(onnx.ValueInfoProto(name=name, type=types[name]))
    if not inner.graph.output:
        raise OnnxoptError("no node makes a tensor without reading sequences, maps or optional values")
    tensors = [t for t in graph.initializer if t.name in read - returned]
    return inner, outside, tensors


def wrap(
    source: onnx.ModelProto,
    inner: onnx.ModelProto,
    outside: Sequence[onnx.NodeProto],
    tensors: Iterable[onnx.TensorProto],
    container: bytes,
    location: str = "",
) -> onnx.ModelProto:
    """The outer model: inputs, outputs, metadata and opsets of `source`, with `container` in place of `inner`.

    If there is a `location`, the container is external data in the file of that name beside the model.
    """
    outer = onnx.ModelProto()
    outer.ir_version = max(source.ir_version, inner.ir_version)
    outer.opset_import.extend(o for o in source.opset_import if o.domain != DOMAIN)
    outer.opset_import.add(domain=DOMAIN, version=_OPSET)
    outer.producer_name, outer.producer_version = source.producer_name, source.producer_version
    outer.domain, outer.model_version, outer.doc_string = source.domain, source.model_version, source.doc_string
    outer.metadata_props.extend(source.metadata_props)
    outer.functions.extend(source.functions if outside else ())
    graph = outer.graph
    graph.name = source.graph.name or "onnxopt"
    initializers = {t.name for t in source.graph.initializer}
    initializers |= {t.values.name for t in source.graph.sparse_initializer}
    graph.input.extend(value for value in source.graph.input if value.name not in initializers)
    typed = {value.name: value for value in inner.graph.output}
    graph.output.extend(v if _is_typed(v) else typed.get(v.name, v) for v in source.graph.output)
    name = fresh(PAYLOAD, {v.name for v in (*inner.graph.input, *inner.graph.output, *graph.input, *graph.output)})
    payload = graph.initializer.add(name=name, data_type=onnx.TensorProto.UINT8, dims=[len(container)])
    if location:
        payload.data_location = onnx.TensorProto.EXTERNAL
        payload.external_data.add(key="location", value=location)
    else:
        payload.raw_data = container
    graph.initializer.extend(map(whole, tensors))
    read = set().union(*map(_names_used, outside))
    graph.sparse_initializer.extend(t for t in source.graph.sparse_initializer if t.values.name in read)
    inputs = [name, *(value.name for value in inner.graph.input)]
    outputs = [value.name for value in inner.graph.output]
    graph.node.append(helper.make_node(OP, inputs, outputs, domain=DOMAIN))
    graph.node.extend(outside)
    at_border = {value.name for value in source.graph.output}
    graph.value_info.extend(value for value in inner.graph.output if value.name not in at_border)
    return outer


def around(outer: onnx.ModelProto, size: int) -> tuple[bytes, bytes]:
    """What precedes and what follows the container's bytes in an outer model's file: no message has to hold them.

    Arguments:
        outer: of `wrap`, with an empty container; it is used up. If the container has a file of its own, all of the
            outer model's precedes it.
        size: of the container, in bytes.
    """
    payload = outer.graph.initializer[0]
    payload.dims[:] = [size]
    if payload.data_location == onnx.TensorProto.EXTERNAL:
        return outer.SerializeToString(deterministic=True), b""
    payload.ClearField("raw_data")
    tensor = payload.SerializeToString(deterministic=True) + _head(payload, "raw_data", size)  # its last field
    del outer.graph.initializer[0]
    first, others = _halves(outer.graph, "initializer")
    begin = first + _head(outer.graph, "initializer", len(tensor) + size) + tensor
    head = _head(outer, "graph", len(begin) + size + len(others))
    outer.ClearField("graph")
    before, after = _halves(outer, "graph")
    return before + head + begin, others + after


def _halves(message: Message, field: str) -> tuple[bytes, bytes]:
    """The fields of a serialized message before one, and those from there on."""
    number, halves = message.DESCRIPTOR.fields_by_name[field].number, []
    for low, high in ((0, number), (number, 2**29)):
        half = type(message)()
        half.CopyFrom(message)
        for other in message.DESCRIPTOR.fields:
            if not low <= other.number < high:
                half.ClearField(other.name)
        halves.append(half)
    first, rest = (half.SerializeToString(deterministic=True) for half in halves)
    return first, rest


def _head(message: Message, field: str, size: int) -> bytes:
    """What precedes a field of so many bytes in a serialized message."""
    return varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2) + varint(size)


def embed(inner: onnx.ModelProto, weights: Mapping[str, Array]) -> None:
    """Replaces an inner model's references to weights by the decoded weights."""
    for tensor in inner.graph.initializer:
        if tensor.name in weights and tensor.data_location == onnx.TensorProto.EXTERNAL:
            tensor.CopyFrom(tensor_of(weights[tensor.name], tensor.name))


def is_only_wrapped(outer: onnx.ModelProto) -> bool:
    """Whether the compressed node is all that an outer model has, so that its inner model has the same interface."""
    if len(outer.graph.node) != 1:
        return False
    (node,) = outer.graph.node
    inputs, outputs = ([value.name for value in values] for values in (outer.graph.input, outer.graph.output))
    return inputs == list(node.input[1:]) and outputs == list(node.output)


def join(outer: onnx.ModelProto, inner: onnx.ModelProto) -> onnx.ModelProto:
    """The inverse of `wrap`: a plain model, with `inner` in place of the compressed node."""
    plain = onnx.ModelProto()
    plain.CopyFrom(outer)
    del plain.metadata_props[:]
    plain.metadata_props.extend(entry for entry in outer.metadata_props if entry.key != STAMP)
    outside = [node for node in outer.graph.node if node.domain != DOMAIN]
    held = {node.input[0] for node in outer.graph.node if node.domain == DOMAIN}
    del plain.graph.node[:], plain.graph.initializer[:], plain.opset_import[:], plain.functions[:]
    plain.graph.node.extend((*inner.graph.node, *outside))
    around = (t for t in outer.graph.initializer if t.name not in held)
    tensors = {t.name: t for t in (*around, *inner.graph.initializer)}
    plain.graph.initializer.extend(tensors.values())
    present = {tensor.values.name for tensor in outer.graph.sparse_initializer}
    plain.graph.sparse_initializer.extend(t for t in inner.graph.sparse_initializer if t.values.name not in present)
    plain.opset_import.extend(inner.opset_import)
    plain.functions.extend(inner.functions)
    plain.ir_version = inner.ir_version
    return plain


def _is_typed(value: onnx.ValueInfoProto) -> bool:
    return value.type.WhichOneof("value") is not None and (
        not _is_tensor(value.type) or value.type.tensor_type.elem_type != onnx.TensorProto.UNDEFINED
    )


def _is_tensor(kind: onnx.TypeProto) -> bool:
    return bool(kind.WhichOneof("value") == "tensor_type")


def _border_nodes(graph: onnx.GraphProto, not_tensors: set[str]) -> set[int]:
    """Indices of the nodes that stay outside; `not_tensors` names the values that are not tensors."""
    values = {value.name for value in (*graph.input, *graph.output)} & not_tensors
    outside: set[int] = set()
    grown = bool(values)
    while grown:
        before = len(outside)
        for index, node in enumerate(graph.node):
            reads = _names_used(node)
            if index in outside or not values.isdisjoint(reads) or not values.isdisjoint(node.output):
                outside.add(index)
                values |= reads & not_tensors
                values.update(name for name in node.output if name)
        grown = len(outside) > before
    return outside


def _types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto | None]:
    """Types of the main graph's values, None for those that are no tensors: those declared, or, if some at the border
    are missing or no tensors, those that the runtime finds."""
    graph = model.graph
    border = [*graph.input, *graph.output]
    declared = {value.name: value.type if _is_tensor(value.type) else None for value in border if _is_typed(value)}
    if all(declared.get(value.name) for value in border):
        return declared
    made = [name for node in graph.node for name in node.output if name]
    return {**runtime_types(without_weights(model), made), **declared}


def _names_used(node: onnx.NodeProto) -> set[str]:
    """Names that the node reads, inside its subgraphs too."""
    names = set(node.input)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            for inner in subgraphs(graph):
                names.update(name for n in inner.node for name in n.input)
                names.update(value.name for value in inner.output)
    names.discard("")
    return names
