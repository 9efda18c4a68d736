"""Models that hand out what they compute on the way."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto


def expose(model: onnx.ModelProto, values: Sequence[str], more: Sequence[NodeProto] = ()) -> bytes:
    """The model, serialized, with these values of its main graph as its outputs, which `more` nodes may make."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(more)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    return bytes(copy.SerializeToString())
