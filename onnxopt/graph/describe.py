"""Nodes as short texts for people: the nodes that use a weight, before and after clean-ups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Set

import onnx
from onnx import AttributeProto, numpy_helper

from onnxopt.graph.normalise import subgraphs

_FURTHEST = 8
"""Nodes after the weight's own that a clean-up may have merged into it."""


class Users:
    """The nodes of a model by the values that they read, subgraphs included."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._constants: dict[str, str] = {}
        for graph in subgraphs(model.graph):
            self._constants.update({tensor.name: _constant(tensor) for tensor in graph.initializer})
            for node in graph.node:
                for name in dict.fromkeys(node.input):
                    self._users[name].append(node)

    def of(self, path: str) -> list[onnx.NodeProto]:
        """The nodes that use the weight, in graph order."""
        return self._users.get(path, [])

    def until(self, path: str, values: Set[str]) -> list[onnx.NodeProto]:
        """The nodes that use the weight, each with its successors up to the one that makes one of these values."""
        return [behind for node in self.of(path) for behind in (node, *self._until(node, values))]

    def that_became(self, path: str, after: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes of this model that clean-ups turned into `after`, the nodes that use the weight afterwards.

        They are the weight's users here, each with its successors up to an output of a node in `after`. A clean-up
        makes ``w@bn`` of ``w``.
        """
        users = self.of(path) or self.of(path.partition("@")[0])
        wanted = {name for node in after for name in node.output}
        return [merged for node in users for merged in (node, *self._until(node, wanted))]

    def _until(self, node: onnx.NodeProto, wanted: Set[str]) -> list[onnx.NodeProto]:
        chain: list[onnx.NodeProto] = []
        while wanted.isdisjoint(node.output):
            behind = self.of(node.output[0])
            if len(behind) != 1 or len(chain) == _FURTHEST:
                return []
            node = behind[0]
            chain.append(node)
        return chain

    def texts(self, nodes: list[onnx.NodeProto]) -> tuple[str, ...]:
        """One line a node: ``Conv /conv1 (pads 1x1x1x1) with conv1.weight[24x1x3x3]``."""
        return tuple(map(self._text, nodes))

    def _text(self, node: onnx.NodeProto) -> str:
        text = f"{node.op_type} {node.name}".strip()
        attributes = [f"{a.name} {value}" for a in sorted(node.attribute, key=lambda a: a.name) if (value := _value(a))]
        if attributes:
            text += f" ({', '.join(attributes)})"
        constants = [self._constants[name] for name in node.input if name in self._constants]
        return f"{text} with {', '.join(constants)}" if constants else text


def _constant(tensor: onnx.TensorProto) -> str:
    """A number's value; the shape of any other constant."""
    if tensor.dims or tensor.data_type == onnx.TensorProto.STRING:
        return f"{tensor.name}[{'x'.join(map(str, tensor.dims))}]"
    return f"{tensor.name} = {numpy_helper.to_array(tensor).item():.4g}"


def _value(attribute: AttributeProto) -> str:
    """The value of an attribute that holds numbers or text; empty for tensors and graphs."""
    match attribute.type:
        case AttributeProto.INT:
            return str(attribute.i)
        case AttributeProto.FLOAT:
            return f"{attribute.f:.4g}"
        case AttributeProto.STRING:
            return attribute.s.decode("utf-8", "replace")
        case AttributeProto.INTS:
            return "x".join(map(str, attribute.ints))
        case AttributeProto.FLOATS:
            return ", ".join(f"{value:.4g}" for value in attribute.floats)
    return ""
