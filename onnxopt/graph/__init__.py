"""The model as passes see it; with `cleanup`, the only code that touches ONNX protobufs."""

from onnxopt.graph.files import Source, is_compressed, payload, read, write_atomically
from onnxopt.graph.gradient import Gradient
from onnxopt.graph.graph import Graph, Site
from onnxopt.graph.linear import Linear
from onnxopt.graph.macs import macs, parameters, weight_macs
from onnxopt.graph.nodes import Users
from onnxopt.graph.normal import normalise
from onnxopt.graph.outer import embed, join, split, wrap
from onnxopt.graph.strip import strip
from onnxopt.graph.trace import Kernel, trace

__all__ = [
    "Gradient",
    "Graph",
    "Kernel",
    "Linear",
    "Site",
    "Source",
    "Users",
    "embed",
    "is_compressed",
    "join",
    "macs",
    "normalise",
    "parameters",
    "payload",
    "read",
    "split",
    "strip",
    "trace",
    "weight_macs",
    "wrap",
    "write_atomically",
]
