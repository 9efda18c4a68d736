"""Cuts a backward model into models that run one after the other, so that few gradients are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import onnx

from onnxopt.graph.autodiff.backward import Backward, cotangent
from onnxopt.graph.autodiff.sections import Sections, stages

_AT_ONCE = 1 << 26
"""Bytes of gradients that one model may give."""

_FLOAT = onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, None)
"""Of values that shape inference does not reach, behind operators on blocks of channels."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A model that takes what earlier ones give."""

    model: bytes
    takes: list[str]
    gives: list[str]
    section: int
    """Of the forward model, beside which it runs."""


def segments(model: bytes, plan: Backward, sizes: Mapping[str, int], sections: Sections) -> list[Segment]:
    """The models that together compute the outputs of `model`, in order; only one if that cannot be cut.

    Arguments:
        sizes: bytes of each output.
        sections: of the forward model. No segment needs values of more than one, but for those that are kept.
    """
    whole = [Segment(model, [*plan.fetched, *map(cotangent, plan.cotangents)], list(sizes), sections.count - 1)]
    if sum(sizes.values()) <= _AT_ONCE and sections.count == 1:
        return whole
    one = onnx.load_model_from_string(model)
    if any(attribute.HasField("g") for node in one.graph.node for attribute in node.attribute):
        return whole
    inferred = onnx.shape_inference.infer_shapes(one).graph
    types = {value.name: value.type for value in (*inferred.value_info, *one.graph.input)}
    nodes = list(_in_order(one.graph, sizes))
    when = stages(nodes, sections, plan.fetched)
    order = sorted(range(len(nodes)), key=when.__getitem__)  # stable
    runs = [(stage, [nodes[index] for index in run]) for stage, run in groupby(order, when.__getitem__)]
    cuts = [(stage, part) for stage, run in runs for part in _cut(run, sizes)]
    parts = [part for _, part in cuts]
    made = [{name for node in part for name in node.output} for part in parts]
    read = [{name for node in part for name in node.input} - own for part, own in zip(parts, made, strict=True)]
    tensors = {tensor.name: tensor for tensor in one.graph.initializer}
    found = []
    for index, part in enumerate(parts):
        takes = sorted(read[index] - tensors.keys() - {""})
        gives = sorted(made[index] & set[str]().union(sizes, *read[index + 1 :]))
        cut = onnx.ModelProto(ir_version=one.ir_version, opset_import=one.opset_import)
        cut.graph.name = one.graph.name
        cut.graph.node.extend(part)
        cut.graph.input.extend(onnx.ValueInfoProto(name=name, type=types.get(name, _FLOAT)) for name in takes)
        cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in gives)
        cut.graph.initializer.extend(tensors[name] for name in sorted(read[index] & tensors.keys()))
        found.append(Segment(cut.SerializeToString(), takes, gives, sections.count - 1 - cuts[index][0]))
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


def _cut(nodes: Iterable[onnx.NodeProto], sizes: Mapping[str, int]) -> Iterator[Sequence[onnx.NodeProto]]:
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
