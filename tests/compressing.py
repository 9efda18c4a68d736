"""Compresses a model as it is, every weight stored losslessly: what the loader's tests need."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from onnxopt.build import container
from onnxopt.calibration.stats import Stats
from onnxopt.graph import Graph, QuantParams, normalise, split, wrap
from onnxopt.passes.quantise.nbits import NBits


def compressed(
    model: onnx.ModelProto, rounded: Mapping[str, QuantParams] | None = None, blocked: Mapping[str, int] | None = None
) -> bytes:
    """The file; these values are `rounded` where it runs, and these weights are integers of so many bits."""
    source = onnx.ModelProto()
    source.CopyFrom(model)
    normalise(source)
    inner, outside, tensors = split(source)
    graph = Graph(inner)
    for value, how in (rounded or {}).items():
        graph.quantize(value, how)
    sites = {site.path: site for site in graph.sites()}
    for path, bits in (blocked or {}).items():
        NBits(bits).apply(graph, sites[path], Stats())
    inner, encodings = graph.export()
    assert encodings, "no weight of this model is large enough to be stored"
    packed = container.write(inner.SerializeToString(), encodings, "{}")
    return bytes(wrap(model, inner, outside, tensors, packed).SerializeToString())
