"""Compresses a model as it is, every weight stored losslessly: what the loader's tests need."""

from __future__ import annotations

import onnx

from onnxopt import container
from onnxopt.graph import Graph, normalise, split, wrap


def compressed(model: onnx.ModelProto) -> bytes:
    source = onnx.ModelProto()
    source.CopyFrom(model)
    normalise(source)
    inner, outside, tensors = split(source)
    inner, leaves = Graph(inner).export()
    assert leaves, "no weight of this model is large enough to be stored"
    packed = container.write(inner.SerializeToString(), leaves, "{}")
    return bytes(wrap(model, inner, outside, tensors, packed).SerializeToString())
