"""One form for the models of all exporters: weights are initializers of unique names, and not model inputs."""

from __future__ import annotations

import onnx

from onnxopt.graph import constants
from onnxopt.graph.constants import tie
from onnxopt.graph.functions import inline
from onnxopt.graph.scopes import separate
from onnxopt.graph.walk import branches, fresh, names_taken, set_nodes, subgraphs, tensors

__all__ = ["fix_initializers", "fresh", "hoist", "names_taken", "normalise", "set_nodes", "subgraphs", "tensors", "tie"]

_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
_MIN_IR = 4  # from this version on, an initializer that is not an input is a constant


def normalise(model: onnx.ModelProto) -> None:
    """Brings `model` into the form that `Graph` works on, in place. It computes the same as before."""
    inline(model)
    for graph in subgraphs(model.graph):
        _drop_inferable_types(graph)
        constants.to_initializers(graph)
    separate(model)
    constants.copy_returned(model)
    fix_initializers(model)


def fix_initializers(model: onnx.ModelProto) -> bool:
    """Makes initializers that are inputs as well constant, in place. Returns whether there were any."""
    model.ir_version = max(model.ir_version, _MIN_IR)
    names = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in names]
    if len(inputs) == len(model.graph.input):
        return False
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    return True


def _drop_inferable_types(graph: onnx.GraphProto) -> None:
    """Drops the types of inner values, which the runtime infers; those of operators that it may not know stay."""
    foreign = {name for node in graph.node if node.domain not in _STANDARD for name in node.output}
    kept = [value for value in graph.value_info if value.name in foreign]
    del graph.value_info[:], graph.quantization_annotation[:]
    graph.value_info.extend(kept)


def hoist(model: onnx.ModelProto, deep: bool = True) -> None:
    """Moves the initializers of branches and loop bodies to the main graph, where they can be stored and fed.

    Subgraphs see the names of enclosing graphs, so nothing else changes. Call `normalise` first.

    Arguments:
        deep: whether initializers of subgraphs inside subgraphs move, too. ONNX Runtime packs a matrix for its kernel
            only if it belongs to the graph of the node or to the one around it, so outputs may differ in the last bits.
    """
    for node in model.graph.node:
        for branch in branches(node):
            for graph in subgraphs(branch) if deep else (branch,):
                model.graph.initializer.extend(graph.initializer)
                del graph.initializer[:]
