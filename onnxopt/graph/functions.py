"""Model-local functions: put in the place of their calls, so that weights are seen where they are used."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import onnx
from onnx import inliner

from onnxopt.graph.walk import branches, subgraphs

STANDARD = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators."""
RUNTIME = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""
RUNTIME_DOMAINS = frozenset((
    "", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft",
    "com.microsoft.experimental", "com.microsoft.nchwc", "com.ms.internal.nhwc",
))  # fmt: skip
"""Domains whose operators ONNX Runtime has itself. It prefers its own kernel to a function of the same name."""

_log = logging.getLogger(__name__)


def inline(model: onnx.ModelProto) -> None:
    """Replaces the calls of all functions outside `RUNTIME_DOMAINS` by their bodies, in place.

    ONNX Runtime does the same when it loads a model. A model whose functions ONNX cannot inline, such as those of
    another opset, stays as it is.
    """
    own = [(one.domain, one.name) for one in model.functions if one.domain not in RUNTIME_DOMAINS]
    if not own:
        return
    light = onnx.ModelProto()
    light.CopyFrom(model)
    for tensor in light.graph.initializer:  # names and types matter, values may be over protobuf's 2 GB
        bare = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        tensor.CopyFrom(bare)
    _fill_in_defaults(light)
    try:
        inlined = inliner.inline_selected_functions(light, own)
    except Exception as error:  # of any class, from ONNX: the runtime knows what to do with functions
        _log.info("functions kept: %s", error)
        return
    if any(one.domain not in RUNTIME_DOMAINS for one in inlined.functions):
        return
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for tensor in inlined.graph.initializer:
        if tensor.name in tensors:
            tensor.CopyFrom(tensors[tensor.name])
    gone = {domain for domain, _ in own} - set(foreign_domains(inlined))
    imports = [one for one in inlined.opset_import if one.domain not in gone]
    del inlined.opset_import[:]
    inlined.opset_import.extend(imports)
    model.CopyFrom(inlined)


def foreign_domains(model: onnx.ModelProto) -> list[str]:
    """The domains of operators that neither ONNX Runtime nor the model's functions define, in order."""
    functions = {(one.domain, one.name, one.overload) for one in model.functions}
    return sorted({
        node.domain
        for node in _nodes(model)
        if node.domain not in RUNTIME_DOMAINS and (node.domain, node.op_type, node.overload) not in functions
    })  # fmt: skip


def _fill_in_defaults(model: onnx.ModelProto) -> None:
    """Gives calls the attributes that they leave out and that the function has a default for, which ONNX forgets."""
    defaults = {(one.domain, one.name, one.overload): one.attribute_proto for one in model.functions}
    for node in _nodes(model):
        given = {attribute.name for attribute in node.attribute}
        wanted = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(attribute for attribute in wanted if attribute.name not in given)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """All nodes, those inside functions and subgraphs included."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        for node in nodes:
            yield node
            for graph in (graph for inner in branches(node) for graph in subgraphs(inner)):
                yield from graph.node
