"""Runs a model part by part on a few batches, with weights that may change from one part to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import onnx
from onnx import helper

from onnxopt.data import chosen_session
from onnxopt.encoding import Array
from onnxopt.files.set_aside import tensor_of
from onnxopt.graph.walk import branches


class Partwise:
    """The values of a model's main graph just before one of its nodes. The node only moves forward.

    Each node runs once for each batch, with the weights of that time. Only values that later nodes read are kept.

    Arguments:
        model: normalised. No node of it may have subgraphs, which read values without naming them.
        feeds: the batches.
        weight: gives the values of an initializer when the nodes that read it run.
    """

    def __init__(
        self, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]], weight: Callable[[str], Array]
    ) -> None:
        self._model, self._weight = model, weight
        self._weights = {tensor.name for tensor in model.graph.initializer}
        self._last_use = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
        self._at = 0
        self._values: list[dict[str, Any]] = [dict(one) for one in feeds]

    @staticmethod
    def takes(model: onnx.ModelProto) -> bool:
        """Whether the model can be run in parts."""
        return not any(True for node in model.graph.node for _ in branches(node))

    def before(self, index: int) -> list[dict[str, Any]]:
        """For each batch, the values that nodes from `index` on read.

        Raises what the runtime raises if a part does not run.
        """
        nodes = self._model.graph.node[self._at : index]
        if nodes:
            names, part = self._part(nodes, index)
            session = chosen_session(part)
            takes = [value.name for value in session.get_inputs()]
            for number, values in enumerate(self._values):
                made = zip(names, session.run(names, {name: values[name] for name in takes}), strict=True)
                kept = {name: value for name, value in values.items() if self._last_use.get(name, -1) >= index}
                self._values[number] = {**kept, **dict(made)}
        self._at = max(self._at, index)
        return self._values

    def _part(self, nodes: Sequence[onnx.NodeProto], end: int) -> tuple[list[str], bytes]:
        """The names of what these nodes make for nodes from `end` on, and a model of them."""
        made = [name for node in nodes for name in node.output if name]
        read = sorted({name for node in nodes for name in node.input if name} - set(made))
        types = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in self._values[0].items()}
        names = [name for name in made if self._last_use.get(name, -1) >= end]
        graph = helper.make_graph(
            nodes, "part",
            [helper.make_tensor_value_info(name, types[name], None) for name in read if name not in self._weights],
            [onnx.ValueInfoProto(name=name) for name in names],
            [tensor_of(self._weight(name), name) for name in read if name in self._weights],
        )  # fmt: skip
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        return names, bytes(model.SerializeToString())
