"""Finds the values at which differences between a model and its compressed form show.

These are the float outputs. An output of labels, indices or selected rows shows a difference only once a decision has
changed. So what the decision was made on is observed as well: the scores before an ArgMax or a threshold, boxes and
scores before a NonMaxSuppression, the value that a Cast or QuantizeLinear rounds, the probabilities before a ZipMap.

An output may join values of different kinds, such as the boxes of a detector, in pixels, and its scores. The larger
values would hide the noise of the others, until no object is found. So what is joined is observed as well.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property
from math import prod

import onnx

from onnxopt.graph.inspect.expose import types
from onnxopt.graph.walk import reads
from onnxopt.metrics.observed import Observed

_FLOATS = frozenset({onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE})
_REORDERING = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique", "TopK"})
"""Operators after which the number or the order of rows follows from a decision."""
_SELECTING = _REORDERING | {"ArgMax", "ArgMin"}
"""The same, and those that choose a row for each sample."""
_VIEWS = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})
_OF_SHAPE = frozenset({"Shape", "Size"})
_STANDARD = ("", "ai.onnx")
_NO_WEIGHTS = frozenset(
    {onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
)
"""Types of shapes, indices, masks and names."""


def observe(model: onnx.ModelProto) -> Observed:
    """The values of `model` at which differences are measured; none if neither outputs nor decisions are on floats."""
    graph = model.graph
    search, outputs = _Search(model), [value.name for value in graph.output]
    for name in outputs:
        search.add(name)
    readers = Counter(read for node in graph.node for read in reads(node))
    alone = {name: axis for name, axis in search.classes.items() if readers[name] == 1 and name not in outputs}
    values = tuple(search.values)
    hidden = tuple(name for name in values if name not in outputs)
    return Observed(values, hidden, frozenset((*values, *outputs)) & search.selected, tuple(search.labels), alone)


class _Search:
    """What is found on the way from a model's outputs to its inputs."""

    def __init__(self, model: onnx.ModelProto) -> None:
        graph = model.graph
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._model = model
        self._weights = {tensor.name for tensor in graph.initializer if _is_weight(tensor)}
        self._weights |= {tensor.values.name for tensor in graph.sparse_initializer}
        """Weights, and what is computed from them and from no input's values."""
        constants = {tensor.name for tensor in graph.initializer}
        self._dynamic = {value.name for value in graph.input} - constants
        """Values that depend on the values of an input, and not only on its shape."""
        self._weighed = set[str]()
        """Those that depend on a weight as well."""
        self.selected = set[str]()
        """Those whose rows, or their order, follow from a decision."""
        self.reordered = set[str]()
        """Those of them whose rows may change their number or places."""
        for node in graph.node:  # in the order of execution
            self._follow(node)
        self.values: dict[str, None] = {}
        self.labels: list[str] = []
        self.classes: dict[str, int] = {}
        self._visited = set[str]()

    def add(self, output: str) -> None:
        """Adds what shows a difference in this output."""
        if output in self._weighed or output in self._weights:
            if self._shows(output) or (self._is_float(output) and self._is_weighed_when_selected(output)):
                self.values.update(dict.fromkeys([output, *self._joined(output)]))
            elif not self._is_float(output) and output not in self.reordered:
                self.labels.append(output)
        stack = [output]
        while stack:
            now = stack.pop()
            node = self._producers.get(now)
            if now in self._visited or node is None or node.op_type in _OF_SHAPE or self._shows(now):
                continue
            self._visited.add(now)
            for read in reversed(self._reads_that_count(node, now)):
                if not self._shows(read):
                    stack.append(read)
                    if self._is_float(read) and not self._is_float(now) and self._is_weighed_when_selected(read):
                        self.values.setdefault(read)
                elif read in self._weighed or read in self._weights:
                    self.values.setdefault(read)
                    if node.op_type in ("ArgMax", "ArgMin"):
                        self.classes[read] = next((a.i for a in node.attribute if a.name == "axis"), 0)

    def _follow(self, node: onnx.NodeProto) -> None:
        """Takes one node's outputs into the sets of values."""
        every = set(reads(node))
        if node.op_type in _OF_SHAPE or every.isdisjoint(self._dynamic):
            if any(_is_weight(a.t) or a.HasField("sparse_tensor") for a in node.attribute) or not every.isdisjoint(
                self._weights
            ):
                self._weights.update(node.output)
            return
        self._dynamic.update(node.output)
        if _may_weigh(node) or not every.isdisjoint(self._weights | self._weighed):
            self._weighed.update(node.output)
        if node.op_type in _SELECTING or not every.isdisjoint(self.selected):
            self.selected.update(node.output)
        if node.op_type in _REORDERING or not every.isdisjoint(self.reordered):
            self.reordered.update(node.output)

    def _shows(self, name: str) -> bool:
        """Whether a difference shows in the value itself, before any decision."""
        return self._is_float(name) and name not in self.selected

    @cached_property
    def _types(self) -> dict[str, onnx.TypeProto]:
        return types(self._model)

    def _is_float(self, name: str) -> bool:
        return name in self._types and self._types[name].tensor_type.elem_type in _FLOATS

    def _reads_that_count(self, node: onnx.NodeProto, output: str) -> list[str]:
        """What changes with an input; of an output that no input changes, what nodes make of weights."""
        made = self._dynamic if output in self._dynamic else self._weights & self._producers.keys()
        return [name for name in dict.fromkeys(reads(node)) if name in made]

    def _joined(self, output: str) -> list[str]:
        """What an output joins, if different operators made it."""
        node = self._maker(output)
        if node is None or node.op_type != "Concat":
            return []
        kinds = {maker.op_type for part in node.input if (maker := self._maker(part)) is not None}
        apart = len(kinds) > 1 and all(part in self._weighed and self._shows(part) for part in node.input)
        return list(node.input) if apart else []

    def _maker(self, name: str) -> onnx.NodeProto | None:
        """The node that computes a value, whatever its shape."""
        node = self._producers.get(name)
        while node is not None and node.op_type in _VIEWS:
            node = self._producers.get(node.input[0])
        return node

    def _is_weighed_when_selected(self, name: str) -> bool:
        """Whether a weight acts on selected rows on the way to this value: its noise shows nowhere else."""
        stack, seen = [name], set[str]()
        while stack:
            node = self._producers.get(stack.pop())
            if node is None or node.op_type in _SELECTING:
                continue
            every = set(reads(node))
            if _may_weigh(node) or not self._weights.isdisjoint(every):
                return True
            rows = [read for read in every if read in self.selected and read not in seen]
            seen.update(rows)
            stack.extend(rows)
        return False


def _is_weight(tensor: onnx.TensorProto) -> bool:
    return prod(tensor.dims) > 1 and tensor.data_type not in _NO_WEIGHTS


def _may_weigh(node: onnx.NodeProto) -> bool:
    """Whether weights may be inside a node: in its subgraphs, or in what a custom operator does."""
    has_graph = any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute)
    return has_graph or node.domain not in _STANDARD
