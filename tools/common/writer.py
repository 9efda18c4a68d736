"""Writes ONNX graphs node by node."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]


def number(value: float) -> Array:
    """A constant."""
    return np.array(value, np.float32)


@dataclass(slots=True, kw_only=True)
class Writer:
    """Nodes and initializers in the order of computation."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    tensors: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def node(self, op: str, *inputs: str | Array, **attributes: Any) -> str:
        """Adds a node and returns its output; arrays become constants."""
        name = f"/{len(self.nodes)}/{op}"
        read = [self.tensor(f"{name}/{i}", one) if isinstance(one, np.ndarray) else one for i, one in enumerate(inputs)]
        self.nodes.append(helper.make_node(op, read, [f"{name}_output_0"], name, **attributes))
        return f"{name}_output_0"

    def output(self, value: str, name: str) -> None:
        """Gives a value the name of an output."""
        self.nodes.append(helper.make_node("Identity", [value], [name], f"/{name}"))

    def tensor(self, name: str, values: Array) -> str:
        """Adds an initializer."""
        self.tensors[name] = numpy_helper.from_array(np.array(values, order="C"), name)
        return name
