"""Models whose inner values are outputs, and the types of these values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx
from onnx import NodeProto, helper

from onnxopt.data import quiet_session
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files.set_aside import is_set_aside
from onnxopt.graph.light_message import with_nodes
from onnxopt.graph.walk import reads

_SMALL = 4096
"""Bytes of a constant on whose values types and shapes may depend."""


def expose(model: onnx.ModelProto, values: Sequence[str], more: Sequence[NodeProto] = ()) -> bytes:
    """The model, serialized, whose outputs are these values of its main graph or of the nodes `more`."""
    return with_outputs(model, [onnx.ValueInfoProto(name=value) for value in values], more)


def with_outputs(
    model: onnx.ModelProto, outputs: Sequence[onnx.ValueInfoProto], more: Sequence[NodeProto] = ()
) -> bytes:
    """The model, serialized, with other outputs and with the nodes `more`, but without nodes that these outputs do not
    need: the runtime would run them.

    The model has the outputs for that moment, as a copy would hold all weights once more.
    """
    graph, before = model.graph, onnx.GraphProto(output=model.graph.output)
    count = len(graph.node)
    try:
        graph.node.extend(more)
        del graph.output[:]
        graph.output.extend(outputs)
        needed, content = _needed(graph), bytes(model.SerializeToString())
        return content if len(needed) == len(graph.node) else with_nodes(content, needed)
    finally:
        del graph.node[count:], graph.output[:]
        graph.output.extend(before.output)


def _needed(graph: onnx.GraphProto) -> set[int]:
    """The indices of nodes that outputs need."""
    producers = {output: index for index, node in enumerate(graph.node) for output in node.output}
    stack, found = [value.name for value in graph.output], set[int]()
    while stack:
        index = producers.get(stack.pop())
        if index is not None and index not in found:
            found.add(index)
            stack.extend(reads(graph.node[index]))
    return found


def without_defaults(model: onnx.ModelProto, inputs: Iterable[str]) -> None:
    """Drops the initializers of these inputs, in place: some execution providers take an initializer for a constant,
    whatever is fed."""
    fed, tensors = frozenset(inputs), model.graph.initializer
    for index in reversed(range(len(tensors))):
        if tensors[index].name in fed:
            del tensors[index]


def runtime_types(model: onnx.ModelProto, values: Sequence[str]) -> dict[str, onnx.TypeProto | None]:
    """The types that ONNX Runtime finds for values of the main graph; None for those that are no tensors.

    Raises OnnxoptError if it does not load the model.
    """
    try:
        outputs = quiet_session(expose(model, values)).get_outputs()
    except Exception as error:  # the runtime raises classes of its own
        raise OnnxoptError(f"the types of its outputs are unknown, as it does not load: {first_line(error)}") from error
    known = onnx.TensorProto.DataType.items()
    types = {f"tensor({name.lower()})": number for name, number in known}
    return {
        value.name: helper.make_tensor_type_proto(types[value.type], value.shape or None)
        if value.type in types
        else None
        for value in outputs  # where no shape is known, the runtime says that it has no dimensions
    }


def types(model: onnx.ModelProto) -> dict[str, onnx.TypeProto]:
    """Types of the main graph's tensors: those that are declared with a shape, the others as ONNX Runtime finds them.

    A shape is missing where it is unknown or has no dimensions. Where the runtime does not load the model, only what is
    declared is known. ONNX's own inference is not asked: some models end the process in it, such as an EyeLike of a
    value whose type is unknown.
    """
    graph = model.graph
    declared = {
        v.name: v.type for v in (*graph.value_info, *graph.input, *graph.output) if v.type.tensor_type.elem_type
    }
    whole = {name for name, kind in declared.items() if kind.tensor_type.HasField("shape")}
    unknown = [name for node in graph.node for name in node.output if name and name not in whole]
    try:
        found = runtime_types(without_weights(model), unknown) if unknown else {}
    except OnnxoptError:
        found = {}
    return declared | {name: kind for name, kind in found.items() if kind is not None}


def without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy for type inference, in which large initializers are inputs."""
    light = onnx.ModelProto(
        ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions,
        graph=onnx.GraphProto(name=model.graph.name, node=model.graph.node, input=model.graph.input,
                              output=model.graph.output, value_info=model.graph.value_info),
    )  # fmt: skip
    graph = light.graph
    inputs = {value.name for value in graph.input}  # with defaults, and constants of one name, are there already
    sparse = ((t.values.name, t.values.data_type, t.dims, True) for t in model.graph.sparse_initializer)
    dense = ((t.name, t.data_type, t.dims, _is_large(t)) for t in model.graph.initializer)
    large = set[str]()
    for name, kind, dims, is_large in (*dense, *sparse):
        if is_large and name not in inputs | large:
            graph.input.append(helper.make_tensor_value_info(name, kind, list(dims)))
            large.add(name)
    graph.initializer.extend(t for t in model.graph.initializer if t.name not in large and not _is_large(t))
    return light


def _is_large(tensor: onnx.TensorProto) -> bool:
    return is_set_aside(tensor) or tensor.ByteSize() > _SMALL
