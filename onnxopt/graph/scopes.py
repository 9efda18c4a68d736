"""Scopes: a name of its own for every value of a model, and room for the names that rewrites invent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxopt.graph.walk import branches, defined, fresh, names_taken


def separate(model: onnx.ModelProto) -> None:
    """Renames values, in place, until no name is defined twice in all graphs and every ``name@part`` is free.

    A subgraph may define a name again that an enclosing graph has; inside, it hides the outer one. Two branches may
    define the same name. Rewrites call what they add ``name@part``, where ``name`` is a value of the model. So a value
    ``w@bn`` is renamed if there is a ``w``, too. Inputs and outputs of the model keep their names.
    """
    _Separating(model).graph(model.graph, {})


class _Separating:
    """One model's names; see `separate`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._border = {value.name for value in (*model.graph.input, *model.graph.output)}
        self._taken = names_taken(model)
        self._blocked = {stem for name in self._border for stem in _stems(name)} - self._border
        """Names that must change because an input or output of the model has one of the form ``name@part``."""
        self._clashing = {name for name in self._taken - self._border if not self._taken.isdisjoint(_stems(name))}
        self._clashing |= {name for name in self._taken - self._border if name.startswith("@")}
        self._taken.update(stem for name in self._taken.copy() for stem in _stems(name))
        self._used: set[str] = set()

    def graph(self, graph: onnx.GraphProto, outer: Mapping[str, str]) -> None:
        """Renames what this graph and its subgraphs define, and what they read of the outer names."""
        names = {**outer, **{name: self._name(name) for name in dict.fromkeys(defined(graph))}}
        for value in (*graph.input, *graph.output, *graph.value_info):
            value.name = names.get(value.name, value.name)
        for tensor in graph.initializer:
            tensor.name = names[tensor.name]
        for sparse in graph.sparse_initializer:
            sparse.values.name = names[sparse.values.name]
        for node in graph.node:
            for edges in (node.input, node.output):
                for index, name in enumerate(edges):
                    edges[index] = names.get(name, name)
            for inner in branches(node):
                self.graph(inner, names)

    def _name(self, name: str) -> str:
        """The new name of a value that a graph defines."""
        bare = name.replace("@", ".") if name in self._clashing else name
        if bare != name or name in self._used or name in self._blocked:
            bare = fresh(bare, self._taken)
        self._used.add(bare)
        return bare


def _stems(name: str) -> Iterator[str]:
    """What stands before each ``@`` of a name, if anything does."""
    return (name[:place] for place, letter in enumerate(name) if letter == "@" and place)
