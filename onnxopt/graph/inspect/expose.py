"""Models whose inner values are outputs."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
from onnx import NodeProto


def expose(model: onnx.ModelProto, values: Sequence[str], more: Sequence[NodeProto] = ()) -> bytes:
    """The model, serialized, whose outputs are these values of its main graph or of the nodes `more`."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.node.extend(more)
    del copy.graph.output[:]
    copy.graph.output.extend(onnx.ValueInfoProto(name=value) for value in values)
    return bytes(copy.SerializeToString())
