"""The model as passes see it; with `cleanup`, the only code that touches ONNX protobufs."""

from onnxopt.graph.alone import WEIGHT, alone
from onnxopt.graph.exposing import exposing
from onnxopt.graph.files import Source, is_compressed, payload, read, write_atomically
from onnxopt.graph.gradient import Gradient
from onnxopt.graph.graph import Graph, Site
from onnxopt.graph.linear import Linear
from onnxopt.graph.macs import macs, parameters, weight_macs
from onnxopt.graph.nodes import Users
from onnxopt.graph.normal import normalise
from onnxopt.graph.outer import embed, join, split, wrap
from onnxopt.graph.quantized import Quantized
from onnxopt.graph.strip import strip
from onnxopt.graph.trace import Kernel, trace

__all__ = [
    "WEIGHT",
    "Gradient",
    "Graph",
    "Kernel",
    "Linear",
    "Quantized",
    "Site",
    "Source",
    "Users",
    "alone",
    "embed",
    "exposing",
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
