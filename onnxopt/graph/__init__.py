"""The model as passes see it; with `cleanup`, the only code that touches ONNX protobufs."""

from onnxopt.graph.alone import WEIGHT, alone
from onnxopt.graph.dial import dialled, probed, settings
from onnxopt.graph.equalization import Neighbours, channel_peaks, equalize, neighbours
from onnxopt.graph.exposing import exposing
from onnxopt.graph.files import Source, is_compressed, payload, read, write_atomically
from onnxopt.graph.gradient import Gradient
from onnxopt.graph.graph import Graph, Site
from onnxopt.graph.linear import Linear
from onnxopt.graph.macs import macs, parameters, weight_macs
from onnxopt.graph.modern import OPSET, convolve, raised
from onnxopt.graph.nodes import Users
from onnxopt.graph.normal import normalise
from onnxopt.graph.outer import embed, join, split, wrap
from onnxopt.graph.pairs import Pair
from onnxopt.graph.quantized import Quantized
from onnxopt.graph.strip import strip
from onnxopt.graph.trace import Kernel, trace
from onnxopt.graph.units import Kind, Unit, is_quantized, runs_in_integers, units
from onnxopt.graph.values import is_depthwise, is_equalized, is_for_value, rounding, step_of_value

__all__ = [
    "OPSET",
    "WEIGHT",
    "Gradient",
    "Graph",
    "Kernel",
    "Kind",
    "Linear",
    "Neighbours",
    "Pair",
    "Quantized",
    "Site",
    "Source",
    "Unit",
    "Users",
    "alone",
    "channel_peaks",
    "convolve",
    "dialled",
    "embed",
    "equalize",
    "exposing",
    "is_compressed",
    "is_depthwise",
    "is_equalized",
    "is_for_value",
    "is_quantized",
    "join",
    "macs",
    "neighbours",
    "normalise",
    "parameters",
    "payload",
    "probed",
    "raised",
    "read",
    "rounding",
    "runs_in_integers",
    "settings",
    "split",
    "step_of_value",
    "strip",
    "trace",
    "units",
    "weight_macs",
    "wrap",
    "write_atomically",
]
