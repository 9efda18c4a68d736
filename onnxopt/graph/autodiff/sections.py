"""Sections of a forward model, whose values are computed again when the backward model comes to them.

All activations of a batch may not fit in memory. Then those that one section hands to a later one are kept, and the
others are computed again, a section at a time (gradient checkpointing: Chen et al. 2016, "Training Deep Nets with
Sublinear Memory Cost"). So every node runs twice at most.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf

import onnx

from onnxopt.graph.autodiff.backward import CHANCE, reads
from onnxopt.graph.autodiff.tape import Forward, Node

_MOST = 64
"""Sections of a model, at most."""


@dataclass(frozen=True, slots=True)
class Sections:
    """Where each node of a model is, and each value that one makes."""

    count: int
    of_node: list[int]
    of_value: dict[str, int]
    crossing: frozenset[str]
    """Values that a later section reads, or that would be others if they were computed again."""

    def is_again(self, name: str) -> bool:
        """Whether a value is computed again where it is wanted."""
        return name in self.of_value and name not in self.crossing

    def peak(self, sizes: Mapping[str, float]) -> float:
        """The sum of the sizes of values that are kept, and of those of the largest section."""
        sums = [0.0] * self.count
        for name, size in sizes.items():
            if self.is_again(name):
                sums[self.of_value[name]] += size
        return max(sums) + sum(sizes[name] for name in self.crossing & sizes.keys())


@dataclass(frozen=True, slots=True)
class Again:
    """A part of a forward model."""

    nodes: list[int]
    """Their indices."""
    takes: list[str]
    gives: list[str]


def divided(nodes: Sequence[Node], sizes: Mapping[str, float], fetched: Collection[str], room: float) -> Sections:
    """As few sections as keep values within `room`; if none do, those with the least peak.

    Arguments:
        sizes: bytes of the values that are tensors.
        fetched: values that the backward model takes.
        room: in bytes.
    """
    wanted = {name: sizes[name] for name in fetched}
    best = _in(1, nodes, wanted)
    least = best.peak(wanted)
    for count in range(2, min(_MOST, len(nodes)) + 1):
        if least <= room:
            break
        found = _in(count, nodes, wanted)
        # What crosses is kept, whether or not the backward model takes it. It has to be a tensor.
        peak = found.peak(wanted | {name: sizes.get(name, inf) for name in found.crossing})
        if peak < least:
            best, least = found, peak
    return best


def _in(count: int, nodes: Sequence[Node], wanted: Mapping[str, float]) -> Sections:
    """Sections whose wanted values take as much each."""
    whole, passed = max(1.0, sum(wanted.values())), 0.0
    of_node, of_value, crossing = list[int](), dict[str, int](), set[str]()
    for node in nodes:
        own = min(count - 1, int(count * passed / whole))
        of_node.append(own)
        of_value.update((name, own) for name in node.outputs if name)
        crossing |= {name for name in reads(node) if of_value.get(name, own) < own}
        if node.op in CHANCE:
            crossing |= {*node.outputs} - {""}
        passed += sum(wanted.get(name, 0) for name in node.outputs)
    return Sections(count, of_node, of_value, frozenset(crossing))


def stages(nodes: Sequence[onnx.NodeProto], sections: Sections, fetched: Collection[str]) -> list[int]:
    """When each node of a backward model runs: in stage 0 where it needs only the last section of the forward model,
    and so on. Nodes that only prepare what is kept run when that is needed first.

    Arguments:
        nodes: in order.
        fetched: values of the forward model that are inputs.
    """
    kept, last = {name for name in fetched if not sections.is_again(name)}, sections.count - 1
    made: dict[str, int | None] = dict.fromkeys(kept)
    made |= {name: last - sections.of_value[name] for name in fetched if name not in kept}
    outputs = {name for node in nodes for name in node.output}
    found: list[int | None] = []
    for node in nodes:
        given = [made.get(name, 0) for name in node.input if name in outputs or name in made]
        found.append(max((stage for stage in given if stage is not None), default=None if given else 0))
        made.update((name, found[-1]) for name in node.output)
    first: dict[str, int] = {}
    for index in reversed(range(len(nodes))):
        stage = found[index]
        if stage is None:
            stage = found[index] = min((first.get(name, last) for name in nodes[index].output), default=0)
        for name in nodes[index].input:
            first[name] = min(first.get(name, last), stage)
    return [stage or 0 for stage in found]


def planned(
    nodes: Sequence[Node], sections: Sections, wanted: Iterable[tuple[int, Iterable[str]]]
) -> tuple[set[str], dict[int, Again]]:
    """What has to be kept of the run of a forward model; and what is computed again, by section.

    Arguments:
        wanted: sections, and names of values that are wanted while the backward model is at them.
    """
    kept, own, again = set[str](), dict[int, set[str]](), dict[int, Again]()
    for section, names in wanted:
        for name in sections.of_value.keys() & names:
            here = sections.is_again(name) and sections.of_value[name] == section
            (own.setdefault(section, set()) if here else kept).add(name)
    for section in reversed(range(sections.count)):
        if gives := own.get(section, set()) - kept:
            inside = [index for index, place in enumerate(sections.of_node) if place == section]
            again[section] = above(nodes, inside, gives, kept | sections.crossing)
            kept |= sections.of_value.keys() & again[section].takes
    return kept, again


def above(nodes: Sequence[Node], inside: Sequence[int], gives: Collection[str], known: Collection[str]) -> Again:
    """Those of the nodes `inside` that compute `gives` from what others make, or what is known."""
    needed, taken = set(gives), list[int]()
    for index in reversed(inside):
        if needed.intersection(nodes[index].outputs):
            taken.append(index)
            needed -= {*nodes[index].outputs}
            needed |= reads(nodes[index]) - {*known}
    made = {name for index in taken for name in nodes[index].outputs}
    takes = {name for index in taken for name in reads(nodes[index])} - made
    return Again(taken[::-1], sorted(takes), sorted(gives))


def cut_out(model: onnx.ModelProto, part: Again, forward: Forward) -> onnx.ModelProto:
    """The model of a part. It takes initializers with it."""
    graph, names = model.graph, frozenset(part.takes)
    cut = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import, functions=model.functions)
    cut.graph.name = graph.name
    cut.graph.node.extend(graph.node[index] for index in part.nodes)
    cut.graph.initializer.extend(tensor for tensor in graph.initializer if tensor.name in names)
    inputs = {value.name: value for value in graph.input}
    held = {tensor.name for tensor in cut.graph.initializer} - inputs.keys()
    cut.graph.input.extend(
        inputs.get(name) or onnx.helper.make_tensor_value_info(name, forward.types[name], forward.shapes[name])
        for name in part.takes
        if name not in held
    )
    cut.graph.output.extend(onnx.ValueInfoProto(name=name) for name in part.gives)
    return cut
