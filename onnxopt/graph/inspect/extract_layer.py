"""One layer as a model."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import NodeProto, TensorProto, helper

from onnxopt.graph.rewrite.low_rank_chain import users

WEIGHT = "w"
"""The name of the weight in that model."""


def extract_layer(model: onnx.ModelProto, path: str, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """A model of the main graph's nodes that use the weight at `path`, with inputs ``x0``, ``x1``, ...

    Arguments:
        shapes: of every value that they read and that is not a constant.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    kind, names = constants[path].data_type, {path: WEIGHT}
    made = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    made.graph.name = "layer"
    for index, user in enumerate(users(model, path)):
        node = NodeProto()
        node.CopyFrom(user)
        for place, name in enumerate(user.input):
            if name in constants:
                node.input[place] = names.setdefault(name, f"c{len(names)}")
            elif name:
                node.input[place] = f"x{len(made.graph.input)}"
                made.graph.input.append(helper.make_tensor_value_info(node.input[place], kind, shapes[name]))
        node.name, node.output[0] = f"layer{index}", f"y{index}"
        made.graph.node.append(node)
        made.graph.output.append(helper.make_tensor_value_info(f"y{index}", kind, None))
    for name, short in names.items():
        tensor = TensorProto()
        tensor.CopyFrom(constants[name])
        tensor.name = short
        made.graph.initializer.append(tensor)
    return made
