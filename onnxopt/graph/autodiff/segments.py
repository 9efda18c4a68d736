"""Cuts a backward model into models that run one after the other, so that few gradients are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

_AT_ONCE = 1 << 26
"""Bytes of gradients that one model may give."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A model that takes what earlier ones give."""

    model: bytes
    takes: list[str]
    gives: list[str]


def segments(model: bytes, sizes: Mapping[str, int]) -> list[Segment]:
    """The models that together compute the outputs of `model`, in order; only one if that cannot be cut.

    Arguments:
        sizes: bytes of each output.
    """
    whole = [Segment(model, [], list(sizes))]
    if sum(sizes.values()) <= _AT_ONCE:
        return whole
    one = onnx.load_model_from_string(model)
    if any(attribute.HasField("g") for node in one.graph.node for attribute in node.attribute):
        return whole
    inferred = onnx.shape_inference.infer_shapes(one).graph
    types = {value.name: value.type for value in (*inferred.value_info, *one.graph.input)}
    parts = list(_cut(_in_order(one.graph, sizes), sizes))
    made = [{name for node in part for name in node.output} for part in parts]
    read = [{name for node in part for name in node.input} - own for part, own in zip(parts, made, strict=True)]
    tensors = {tensor.name: tensor for tensor in one.graph.initializer}
    found = []
    for index, part in enumerate(parts):
        takes = sorted(read[index] - tensors.keys() - {""})
        gives = sorted(made[index] & set[str]().union(sizes, *read[index + 1 :]))
        if any(name not in types for name in takes):
            return whole
        cut = onnx.ModelProto(ir_version=one.ir_version, opset_import=one.opset_import)
        cut.graph.name = one.graph.name
        cut.graph.node.extend(part)
        cut.graph.input.extend(onnx.ValueInfoProto(name=name, type=types[name]) for name in takes)
        cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in gives)
        cut.graph.initializer.extend(tensors[name] for name in sorted(read[index] & tensors.keys()))
        found.append(Segment(cut.SerializeToString(), takes, gives))
    return found


def _in_order(graph: onnx.GraphProto, outputs: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    """The nodes of the graph, with those that only name an output as early as can be."""
    naming: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        if node.output[0] in outputs:
            naming.setdefault(node.input[0], []).append(node)
    for node in graph.node:
        if node.output[0] not in outputs:
            yield node
            for name in node.output:
                yield from naming.pop(name, [])
    for left in naming.values():  # of inputs and constants
        yield from left


def _cut(nodes: Iterator[onnx.NodeProto], sizes: Mapping[str, int]) -> Iterator[Sequence[onnx.NodeProto]]:
    """Runs of nodes whose outputs take at most `_AT_ONCE` together, or that have one output."""
    part, bytes_ = list[onnx.NodeProto](), 0
    for node in nodes:
        more = sizes.get(node.output[0], 0)
        if bytes_ and more and bytes_ + more > _AT_ONCE:
            yield part
            part, bytes_ = [], 0
        part.append(node)
        bytes_ += more
    yield part
