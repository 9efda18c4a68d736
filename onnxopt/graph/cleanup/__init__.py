"""Clean-ups that run before weights are changed: every module in this folder is one; dropping a file here registers it.

They work on onnx-graphsurgeon's graph, which links every tensor to its producer and consumers. A model with attribute
types that this graph cannot represent stays as it is; it is never refused.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from importlib import import_module
from pkgutil import iter_modules

import onnx
import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

G_LOGGER.severity = G_LOGGER.CRITICAL

_CLEANUPS = {m.name: import_module(f"{__name__}.{m.name}").clean for m in iter_modules(__path__)}
_log = logging.getLogger(__name__)


def clean(model: onnx.ModelProto, only: Collection[str] | None = None) -> tuple[onnx.ModelProto, dict[str, int]]:
    """A model that computes the same with fewer nodes, and how many nodes each clean-up removed or changed.

    Arguments:
        only: names of the clean-ups that may run; by default all.
    """
    wanted = {name: run for name, run in _CLEANUPS.items() if only is None or name in only}
    try:
        graph = gs.import_onnx(model)
        before = _attributes(gs.export_onnx(graph, do_type_check=False).graph)
        if before != _attributes(model.graph):
            raise ValueError("some attributes do not survive")
        graph = gs.import_onnx(model)
        removed = {name: run(graph) for name, run in wanted.items()}
        if not any(removed.values()):
            return model, removed
        cleaned = onnx.ModelProto()
        cleaned.CopyFrom(model)
        cleaned.graph.CopyFrom(gs.export_onnx(graph.cleanup().toposort(), do_type_check=False).graph)
        del cleaned.graph.input[:], cleaned.graph.output[:]
        cleaned.graph.input.extend(model.graph.input)
        cleaned.graph.output.extend(model.graph.output)
        _keep_returned(model.graph, cleaned.graph)
        return cleaned, removed
    except Exception as error:  # of any class, from the importer: the model stays as it is
        _log.info("left uncleaned: %s", error)
        return model, {}


def _keep_returned(before: onnx.GraphProto, after: onnx.GraphProto) -> None:
    """Restores the initializers that the model returns, which no node has to read."""
    returned = {value.name for value in after.output}
    present = {tensor.name for tensor in after.initializer}
    after.initializer.extend(t for t in before.initializer if t.name in returned - present)


def _attributes(graph: onnx.GraphProto) -> int:
    return sum(len(node.attribute) for node in graph.node)
