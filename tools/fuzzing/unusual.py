"""What makes models of the wild unusual: changes of a model, each kept only if ONNX Runtime still runs it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from fuzzing.growing import Growth, free_names


def as_inputs(tensors: Sequence[onnx.TensorProto]) -> list[onnx.ValueInfoProto]:
    """Declarations of initializers, as inputs and outputs have them."""
    return [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in tensors]


def _weights_are_inputs(g: Growth, model: onnx.ModelProto) -> None:
    declared = {value.name for value in model.graph.input}
    if g.chance(0.1):
        new = [t for t in model.graph.initializer if t.name not in declared and g.chance(0.6)]
        model.graph.input.extend(as_inputs(new))


def _weight_is_output(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.06) and model.graph.initializer:
        tensor = g.one_of(model.graph.initializer)
        model.graph.output.extend(as_inputs([tensor]))


def _input_is_output(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.04):
        model.graph.output.add().CopyFrom(model.graph.input[0])


def _output_twice(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.03):
        model.graph.output.add().CopyFrom(model.graph.output[0])


def _untyped_output(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.06):
        model.graph.output[0].ClearField("type")


def _two_of_one_name(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.03) and model.graph.initializer:
        tensor = g.one_of(model.graph.initializer)
        values = numpy_helper.to_array(tensor)
        other = numpy_helper.from_array((values[::-1] if values.ndim else values).copy(), tensor.name)
        model.graph.initializer.append(other)


def _sparse(g: Growth, model: onnx.ModelProto) -> None:
    results = {value.name for value in model.graph.output}
    matrices = [t for t in model.graph.initializer
                if len(t.dims) == 2 and t.data_type == onnx.TensorProto.FLOAT and t.name not in results]  # fmt: skip
    if g.chance(0.04) and matrices:
        tensor = g.one_of(matrices)
        values = numpy_helper.to_array(tensor).copy()
        values[g.rng.random(values.shape) < 0.8] = 0
        where = np.flatnonzero(values)
        name = tensor.name
        held = numpy_helper.from_array(values.ravel()[where], name)
        model.graph.sparse_initializer.append(
            helper.make_sparse_tensor(held, numpy_helper.from_array(where.astype(np.int64), ""), values.shape)
        )
        model.graph.initializer.remove(tensor)


def _sequence(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.05) and g.shared.opset >= 11:
        result = g.one_of(model.graph.output)
        name = g.name("sequence")
        model.graph.node.append(helper.make_node("SequenceConstruct", [result.name] * g.between(1, 2), [name]))
        kind = result.type.tensor_type.elem_type or 1
        model.graph.output.append(helper.make_tensor_sequence_value_info(name, kind, None))


def _zipmap(g: Growth, model: onnx.ModelProto) -> None:
    """A classifier's end as scikit-learn has it: labels, and a map of probabilities."""
    result, known = model.graph.output[0], {value.name: value.array for value in g.own}
    array = known.get(result.name)
    if g.chance(0.3) and array is not None and array.ndim == 2 and array.dtype == np.float32 and array.shape[1] < 60:
        labels, maps = g.name("label"), g.name("probabilities")
        keys = list(range(array.shape[1]))
        given = {"classlabels_int64s": keys} if g.chance(0.6) else {"classlabels_strings": [f"класс {k}" for k in keys]}
        model.graph.node.append(helper.make_node("ArgMax", [result.name], [labels], axis=1, keepdims=0))
        model.graph.node.append(helper.make_node("ZipMap", [result.name], [maps], domain="ai.onnx.ml", **given))
        if g.chance(0.6):
            del model.graph.output[0]
        model.graph.output.append(helper.make_tensor_value_info(labels, onnx.TensorProto.INT64, None))
        model.graph.output.add(name=maps)


def _text(g: Growth, model: onnx.ModelProto) -> None:
    known = {value.name: value.array for value in g.own}
    array = known.get(model.graph.output[-1].name)
    if g.chance(0.05) and array is not None and array.dtype.kind in "iub":
        name = g.name("text")
        model.graph.node.append(helper.make_node("Cast", [model.graph.output[-1].name], [name], to=8))
        model.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.STRING, None))


def _unused(g: Growth, model: onnx.ModelProto) -> None:
    if g.chance(0.05):
        name = g.name("unused")
        tensor = numpy_helper.from_array(g.rng.normal(size=(8, 16)).astype(np.float32), name)
        model.graph.initializer.append(tensor)
    if g.chance(0.1):
        model.doc_string, model.producer_name = "документ", "exporter"
        model.metadata_props.add(key="key", value="value")


def _shadowed(g: Growth, model: onnx.ModelProto) -> None:
    """Renames a value of a body to the name of an outer value that the body does not read."""
    holders = [node for node in model.graph.node if node.op_type in ("If", "Loop", "Scan")]
    if not holders or not g.chance(0.35):
        return
    node = g.one_of(holders)
    body = g.one_of([a.g for a in node.attribute if a.type == onnx.AttributeProto.GRAPH])
    inside = [name for inner in body.node for name in inner.output if name]
    inside += [tensor.name for tensor in body.initializer]
    outer = [t.name for t in model.graph.initializer] + [name for n in model.graph.node for name in n.output if name]
    outer = [name for name in outer if name not in free_names(node)]
    if inside and outer:
        old, new = g.one_of(inside), g.one_of(outer)
        _rename_in(body, old, new)


def _rename_in(graph: onnx.GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = new if name == old else name
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename_in(attribute.g, old, new)
    for result in graph.output:
        result.name = new if result.name == old else result.name
    for tensor in graph.initializer:
        tensor.name = new if tensor.name == old else tensor.name


CHANGES: tuple[Callable[[Growth, onnx.ModelProto], None], ...] = (
    _zipmap, _text, _sequence, _weights_are_inputs, _weight_is_output, _input_is_output, _output_twice, _untyped_output,
    _two_of_one_name, _sparse, _unused, _shadowed,
)  # fmt: skip
