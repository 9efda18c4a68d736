"""Nodes in short texts, for people: who uses a weight, before and after clean-ups."""

from __future__ import annotations

from collections import defaultdict

import onnx
from onnx import AttributeProto

from onnxopt.graph.normal import subgraphs

_FURTHEST = 8
"""Nodes behind a weight's own that a clean-up may have merged into it."""


class Users:
    """The nodes of a model by the values that they take, subgraphs included."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._users: defaultdict[str, list[onnx.NodeProto]] = defaultdict(list)
        self._shapes: dict[str, tuple[int, ...]] = {}
        for graph in subgraphs(model.graph):
            self._shapes.update({t.name: tuple(t.dims) for t in graph.initializer})
            for node in graph.node:
                for name in dict.fromkeys(node.input):
                    self._users[name].append(node)

    def of(self, path: str) -> list[onnx.NodeProto]:
        """The nodes that use the weight, in graph order."""
        return self._users.get(path, [])

    def that_became(self, path: str, after: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        """The nodes of this model that clean-ups made into those which use the weight `after`: its users here, and what
        follows each until the value that a node `after` gives. ``w@bn`` is what a clean-up made of ``w``.
        """
        users = self.of(path) or self.of(path.partition("@")[0])
        wanted = {name for node in after for name in node.output}
        return [merged for node in users for merged in (node, *self._until(node, wanted))]

    def _until(self, node: onnx.NodeProto, wanted: set[str]) -> list[onnx.NodeProto]:
        chain: list[onnx.NodeProto] = []
        while not wanted.intersection(node.output):
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
        constants = [f"{name}[{'x'.join(map(str, self._shapes[name]))}]" for name in node.input if name in self._shapes]
        return f"{text} with {', '.join(constants)}" if constants else text


def _value(attribute: AttributeProto) -> str:
    """Of an attribute that is numbers or text; empty for tensors and graphs."""
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
