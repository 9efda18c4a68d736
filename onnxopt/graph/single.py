"""A model of half precision in single precision, on which statistics are measured.

The CPU kernels of the runtime have no half precision: a session of such a model converts all weights, in memory of its
own or anew in every run, and gradients fall below what 16 bits can tell from zero. The weights of the model in single
precision are converted once, and set aside.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from onnxopt.data import quiet_session
from onnxopt.errors import OnnxoptError
from onnxopt.files.set_aside import Shelf, elements_of
from onnxopt.graph.walk import fresh, names_taken, set_nodes, subgraphs

_HALF = frozenset((TensorProto.FLOAT16, TensorProto.BFLOAT16))
_TYPES = frozenset(("to", "dtype", "output_dtype"))
"""Attributes that name a type of elements."""
_WORTH = 1 << 24
"""Bytes of weights that are worth setting aside."""


def in_single(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Shelf | None] | None:
    """The model in single precision, with what holds its weights; None where it has nothing to convert.

    It takes the same inputs, which it converts. Its outputs are in single precision. None, too, if it does not load.

    Raises OnnxoptError if there is no room on the disk.
    """
    halves = [tensor for tensor in model.graph.initializer if tensor.data_type in _HALF]
    if not halves:
        return None
    made = onnx.ModelProto()
    made.CopyFrom(model)
    shelf = _weights(made.graph.initializer)
    for depth, graph in enumerate(subgraphs(made.graph)):
        for node in graph.node:
            for attribute in node.attribute:
                _attribute(attribute)
        for value in (*graph.value_info, *graph.output, *(graph.input if depth else ())):
            _type(value)
        for tensor in graph.initializer if depth else ():
            _widen(tensor)
    _convert_inputs(made)
    try:
        quiet_session(made.SerializeToString())
    except MemoryError:
        raise
    except Exception:  # the runtime's own types: an operator has no kernel in single precision
        return None
    return made, shelf


def _weights(tensors: Iterable[TensorProto]) -> Shelf | None:
    """Converts weights, large ones one by one on their way to the disk."""
    halves = [tensor for tensor in tensors if tensor.data_type in _HALF]
    if 4 * sum(prod(tensor.dims) for tensor in halves) < _WORTH:
        for tensor in halves:
            _widen(tensor)
        return None
    before = {tensor.name: TensorProto.FromString(tensor.SerializeToString()) for tensor in halves}
    for tensor in halves:
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=TensorProto.FLOAT, dims=tensor.dims))
    try:
        shelf = Shelf()
    except OSError as error:
        raise OnnxoptError(f"there is no place for weights in single precision: {error.strerror or error}") from error
    shelf.take(halves, lambda tensor: elements_of(before[tensor.name]).astype(np.float32).tobytes())
    for tensor in halves:
        if tensor.data_location != TensorProto.EXTERNAL:
            tensor.CopyFrom(before[tensor.name])
            _widen(tensor)
    return shelf


def _widen(tensor: TensorProto) -> None:
    if tensor.data_type in _HALF:
        tensor.CopyFrom(numpy_helper.from_array(elements_of(tensor).astype(np.float32), tensor.name))


def _attribute(attribute: AttributeProto) -> None:
    if attribute.type == AttributeProto.TENSOR:
        _widen(attribute.t)
    if attribute.name in _TYPES and attribute.i in _HALF:
        attribute.i = TensorProto.FLOAT


def _type(value: onnx.ValueInfoProto) -> None:
    if value.type.tensor_type.elem_type in _HALF:
        value.type.tensor_type.elem_type = TensorProto.FLOAT


def _convert_inputs(model: onnx.ModelProto) -> None:
    graph, taken = model.graph, names_taken(model)
    constants = {tensor.name for tensor in graph.initializer}
    converted = {}
    for value in graph.input:
        if value.name in constants:
            _type(value)
        elif value.type.tensor_type.elem_type in _HALF:
            converted[value.name] = fresh(f"{value.name}@single", taken)
    for depth, inner in enumerate(subgraphs(graph)):
        for node in inner.node:
            for index, name in enumerate(node.input):
                node.input[index] = converted.get(name, name)
        for value in inner.output if depth else ():
            value.name = converted.get(value.name, value.name)
    casts = [helper.make_node("Cast", [name], [single], to=TensorProto.FLOAT) for name, single in converted.items()]
    set_nodes(graph, [*casts, *graph.node])
