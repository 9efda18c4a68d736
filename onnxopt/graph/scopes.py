"""Scopes: a name of its own for every value of a model, and room for the names that rewrites invent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx

from onnxopt.graph.walk import branches, defined, fresh, names_taken, subgraphs


def separate(model: onnx.ModelProto) -> None:
    """Renames values, in place, until no name is defined twice in all graphs and every ``name@part`` is free.

    A subgraph may define a name again that an enclosing graph has; inside, it hides the outer one. Two branches may
    define the same name. Rewrites call what they add ``name@part``, where ``name`` is a value of the model. So a value
    ``w@bn`` is renamed if there is a ``w``, too. Inputs and outputs of the model keep their names. The same holds for
    nodes: runtimes refuse two of one name in a graph.
    """
    border = {value.name for value in (*model.graph.input, *model.graph.output)}
    _rename(model.graph, {}, _Names(names_taken(model), border))
    nodes = [node for graph in subgraphs(model.graph) for node in graph.node if node.name]
    names = _Names({node.name for node in nodes}, set())
    for node in nodes:
        node.name = names.unique(node.name)


def _rename(graph: onnx.GraphProto, outer: Mapping[str, str], new: _Names) -> None:
    """Renames what this graph and its subgraphs define, and what they read of the outer names."""
    names = {**outer, **{name: new.unique(name) for name in dict.fromkeys(defined(graph))}}
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
            _rename(inner, names, new)


class _Names:
    """Gives names that are unique and leave ``name@part`` free.

    Arguments:
        taken: all names of the model.
        fixed: those that must stay.
    """

    def __init__(self, taken: set[str], fixed: set[str]) -> None:
        stems = {stem for name in taken for stem in _stems(name)}
        self._blocked = {stem for name in fixed for stem in _stems(name)} - fixed
        """Names that must change because a fixed one has the form ``name@part``."""
        self._clashing = {n for n in taken - fixed if n.startswith("@") or not taken.isdisjoint(_stems(n))}
        self._taken = taken | stems
        self._used: set[str] = set()

    def unique(self, name: str) -> str:
        """The new name of what has this name; another one each time."""
        bare = name.replace("@", ".") if name in self._clashing else name
        if bare != name or name in self._used or name in self._blocked:
            bare = fresh(bare, self._taken)
        self._used.add(bare)
        return bare


def _stems(name: str) -> Iterator[str]:
    """What stands before each ``@`` of a name, if anything does."""
    return (name[:place] for place, letter in enumerate(name) if letter == "@" and place)
