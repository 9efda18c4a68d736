"""Constants in one form: dense initializers, each name once, that no graph returns directly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import sha256
from math import prod

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxopt.encoding import Array
from onnxopt.files.set_aside import elements_of, is_set_aside
from onnxopt.graph.functions import STANDARD
from onnxopt.graph.walk import fresh, names_taken, set_nodes, subgraphs, tensors
from onnxopt.native import PAIRED

_TIED = 4096
"""Bytes: smaller tensors are not compared with one another."""


def to_initializers(graph: onnx.GraphProto) -> None:
    """Turns Constant nodes and sparse initializers of this graph into initializers, in place.

    Of constants with the same name, which are equal (`repeated`), one stays.
    """
    kept = []
    for node in graph.node:
        tensor = _value(node)
        if tensor is None:
            kept.append(node)
        else:
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
    if len(kept) < len(graph.node):
        set_nodes(graph, kept)
    graph.initializer.extend(map(_dense, graph.sparse_initializer))
    del graph.sparse_initializer[:]
    first = {tensor.name: index for index, tensor in reversed(list(enumerate(graph.initializer)))}
    for index in reversed(range(len(graph.initializer))):
        if first[graph.initializer[index].name] != index:
            del graph.initializer[index]


def repeated(model: onnx.ModelProto) -> str | None:
    """A name that two different constants of one graph have; None if there is none."""
    for graph in subgraphs(model.graph):
        sparse = [tensor.values.name for tensor in graph.sparse_initializer]
        made = [node.output[0] for node in graph.node if node.op_type == "Constant" and node.output]
        counts = Counter((*(tensor.name for tensor in graph.initializer), *sparse, *made))
        for name in (name for name, count in counts.items() if count > 1):
            same = [tensor for tensor in graph.initializer if tensor.name == name]
            same += [_dense(tensor) for tensor in graph.sparse_initializer if tensor.values.name == name]
            values = (_value(node) for node in graph.node if name in node.output)
            same += [value for value in values if value is not None]
            if not all(_equal(same[0], other) for other in same[1:]):
                return name
    return None


def copy_returned(model: onnx.ModelProto) -> None:
    """Puts an Identity before every output of a subgraph that is an initializer of that subgraph, in place.

    The initializer can then move to the main graph, as no runtime lets a subgraph return a value of an outer graph
    directly. Call `separate` first.
    """
    taken = names_taken(model)
    for graph in subgraphs(model.graph):
        names = {tensor.name for tensor in graph.initializer}
        for value in graph.output:
            if graph is not model.graph and value.name in names:
                copied = fresh(value.name, taken)
                graph.node.append(helper.make_node("Identity", [value.name], [copied]))
                value.name = copied


def tie(model: onnx.ModelProto) -> None:
    """Keeps one of equal weights of the main graph, in place: a file may hold tied weights twice.

    Only tensors of two or more dimensions and some size are compared, and no inputs or outputs. Call `separate` first.
    """
    border = {value.name for value in (*model.graph.input, *model.graph.output)}
    first: dict[tuple[object, ...], str] = {}
    instead: dict[str, str] = {}
    for index, tensor in enumerate(list(model.graph.initializer)):
        if len(tensor.dims) < 2 or tensor.name in border or (tensor.ByteSize() < _TIED and not is_set_aside(tensor)):
            continue
        digest = sha256(np.ascontiguousarray(elements_of(tensor)).reshape(-1).view(np.uint8).data).digest()
        name = first.setdefault((tensor.data_type, tuple(tensor.dims), digest), tensor.name)
        if name != tensor.name:
            instead[tensor.name] = name
            del model.graph.initializer[index - len(instead) + 1]
    if instead:
        _read_instead(model.graph, instead)


def _read_instead(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    for inner in subgraphs(graph):
        for node in inner.node:
            for index, name in enumerate(node.input):
                node.input[index] = names.get(name, name)


def mostly_integers(model: onnx.ModelProto) -> bool:
    """Whether elements of 8 bits or fewer make most of the model's bytes: it is quantized already."""
    sizes = {True: 0, False: 0}
    for tensor in tensors(model):
        if tensor.data_type != onnx.TensorProto.STRING:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            sizes[dtype.itemsize == 1] += prod(tensor.dims) * dtype.itemsize // (2 if dtype in PAIRED else 1)
    return sizes[True] > sizes[False]


def _value(node: onnx.NodeProto) -> onnx.TensorProto | None:
    """The value of a Constant node as a tensor without a name; None for any other node."""
    if node.op_type != "Constant" or node.domain not in STANDARD or len(node.attribute) != 1:
        return None
    attribute = node.attribute[0]
    found = onnx.TensorProto()
    match attribute.name:
        case "value":
            found.CopyFrom(attribute.t)
        case "sparse_value":
            found.CopyFrom(_dense(attribute.sparse_tensor))
        case "value_int" | "value_ints":
            ints = attribute.i if attribute.name == "value_int" else list(attribute.ints)
            found.CopyFrom(numpy_helper.from_array(np.asarray(ints, np.int64)))
        case "value_float" | "value_floats":
            floats = attribute.f if attribute.name == "value_float" else list(attribute.floats)
            found.CopyFrom(numpy_helper.from_array(np.asarray(floats, np.float32)))
        case "value_string" | "value_strings":
            texts = [attribute.s] if attribute.name == "value_string" else list(attribute.strings)
            dims = [] if attribute.name == "value_string" else [len(texts)]
            found.CopyFrom(onnx.TensorProto(data_type=onnx.TensorProto.STRING, dims=dims, string_data=texts))
        case _:
            return None
    return found


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    """The sparse tensor with its zeros, as runtimes hold it."""
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dims = tuple(sparse.dims)
    dense: Array = np.zeros(dims, values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T), dims)
    dense.reshape(-1)[flat] = values
    made = numpy_helper.from_array(dense, sparse.values.name)
    made.data_type = sparse.values.data_type
    return made


def _equal(a: onnx.TensorProto, b: onnx.TensorProto) -> bool:
    if a is b:
        return True
    same = a.data_type == b.data_type and list(a.dims) == list(b.dims)
    return same and bool(elements_of(a).tobytes() == elements_of(b).tobytes())
