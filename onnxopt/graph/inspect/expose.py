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


def runtime_types(model: onnx.ModelProto, values: Sequence[str]) -> dict[str, onnx.TypeProto | None]:
    """The types that ONNX Runtime finds for values of the main graph; None for those that are no tensors.

    Raises OnnxoptError if it does not load the model.
    """
    try:
        outputs = quiet_session(expose(model, values)).get_outputs()
    except Exception as error:  # the runtime raises classes of its own
        raise OnnxoptError(f"the types of its outputs are unknown, as it does not load: {first_line(error)}") from error
    known = onnx.TensorProto.DataType.items()
    types = {f"tensor({name.lower()})": number for name, number in known}
    return {
        value.name: helper.make_tensor_type_proto(types[value.type], value.shape or None)
        if value.type in types
        else None
        for value in outputs  # where no shape is known, the runtime says that it has no dimensions
    }
