"""Clean-ups that run before weights are changed: every module in this folder is one; dropping a file here registers it.

They work on onnx-graphsurgeon's graph, which links every tensor to its producer and consumers. A model with attribute
types that this graph cannot represent stays as it is; it is never refused.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from pkgutil import iter_modules

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from onnxopt.encoding import Array
from onnxopt.errors import first_line
from onnxopt.files.set_aside import elements_of, is_set_aside

G_LOGGER.severity = G_LOGGER.CRITICAL

_CLEANUPS = {m.name: import_module(f"{__name__}.{m.name}").clean for m in iter_modules(__path__)}


def clean(
    model: onnx.ModelProto, only: Collection[str] | None = None
) -> tuple[onnx.ModelProto, dict[str, int], dict[str, str]]:
    """A model that computes the same with fewer nodes.

    Arguments:
        only: names of the clean-ups that may run; by default all.

    Returns the model, how many nodes each clean-up removed or changed, and why others failed, by name:
    ``clean-ups`` if the graph cannot be represented.
    """
    failed: dict[str, str] = {}
    while True:
        wanted = [name for name in _CLEANUPS if name not in failed and (only is None or name in only)]
        try:
            cleaned, changed = _cleaned(model, wanted)
            return cleaned, changed, failed
        except _FailedError as error:
            failed[error.name] = error.reason
        except Exception as error:  # of any class, from the importer: the model stays as it is
            return model, {}, {"clean-ups": _said(error)}


class _FailedError(Exception):
    """A clean-up raised an exception, and may have left the graph half changed."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name, self.reason = name, reason


def _cleaned(model: onnx.ModelProto, names: Sequence[str]) -> tuple[onnx.ModelProto, dict[str, int]]:
    graph = gs.import_onnx(model)
    before = _attributes(gs.export_onnx(graph, do_type_check=False).graph)
    if before != _attributes(model.graph):
        raise ValueError("some attributes do not survive")
    graph, changed = _imported(model), {}
    for name in names:
        try:
            changed[name] = _CLEANUPS[name](graph)
        except Exception as error:
            raise _FailedError(name, _said(error)) from error
    if not any(changed.values()):
        return model, changed
    cleaned = onnx.ModelProto()
    cleaned.CopyFrom(model)
    cleaned.graph.CopyFrom(gs.export_onnx(graph.cleanup().toposort(), do_type_check=False).graph)
    del cleaned.graph.input[:], cleaned.graph.output[:]
    cleaned.graph.input.extend(model.graph.input)
    cleaned.graph.output.extend(model.graph.output)
    _keep_returned(model.graph, cleaned.graph)
    return cleaned, changed


class _Aside(LazyValues):  # type: ignore[misc]
    """Elements that are set aside."""

    def load(self) -> Array:
        return elements_of(self.tensor)


def _imported(model: onnx.ModelProto) -> gs.Graph:
    graph = gs.import_onnx(model)
    for tensor in graph.tensors().values():
        held = getattr(getattr(tensor, "_values", None), "tensor", None)
        if isinstance(held, onnx.TensorProto) and is_set_aside(held):
            tensor._values, tensor.data_location = _Aside(held), None
    return graph


def _said(error: Exception) -> str:
    return f"it failed: {type(error).__name__}: {first_line(error)}"


def _keep_returned(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    """Restores the initializers that the model returns, which no node has to read."""
    returned = {value.name for value in after.output}
    present = {tensor.name for tensor in after.initializer}
    after.initializer.extend(t for t in before.initializer if t.name in returned - present)


def _attributes(graph: onnx.GraphProto) -> int:
    return sum(len(node.attribute) for node in graph.node)
