"""Models whose inner values are outputs, and the types of these values."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto, helper

from onnxopt.data import quiet_session
from onnxopt.errors import OnnxoptError, first_line


def expose(model: onnx.ModelProto, values: Sequence[str], more: Sequence[NodeProto] = ()) -> bytes:
    """The model, serialized, whose outputs are these values of its main graph or of the nodes `more`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(more)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    return bytes(copy.SerializeToString())


def runtime_types(model: onnx.ModelProto, values: Sequence[str]) -> dict[str, onnx.TypeProto]:
    """The types that ONNX Runtime finds for values of the main graph; those that are no tensors are left out.

    Raises OnnxoptError if it does not load the model.
    """
    if not values:
        return {}
    try:
        outputs = quiet_session(expose(model, values)).get_outputs()
    except Exception as error:  # the runtime raises classes of its own
        raise OnnxoptError(f"output {values[0]!r} has no type, and the model does not load: {first_line(error)}; "
                           "declare the type") from error  # fmt: skip
    kinds = {value.name: value.type.removeprefix("tensor(").removesuffix(")").upper() for value in outputs}
    known = onnx.TensorProto.DataType.keys()
    return {
        value.name: helper.make_tensor_type_proto(onnx.TensorProto.DataType.Value(kinds[value.name]), value.shape)
        for value in outputs
        if kinds[value.name] in known
    }
