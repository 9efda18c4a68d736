"""The model as passes see it; with `cleanup`, the only code that touches ONNX protobufs."""

from onnxopt.graph.files import Source, is_compressed, payload, read, write_atomically
from onnxopt.graph.gradient import Gradient
from onnxopt.graph.graph import Graph, Site
from onnxopt.graph.linear import Linear
from onnxopt.graph.normal import normalise
from onnxopt.graph.outer import embed, join, split, wrap
from onnxopt.graph.strip import strip

__all__ = [
    "Gradient",
    "Graph",
    "Linear",
    "Site",
    "Source",
    "embed",
    "is_compressed",
    "join",
    "normalise",
    "payload",
    "read",
    "split",
    "strip",
    "wrap",
    "write_atomically",
]
