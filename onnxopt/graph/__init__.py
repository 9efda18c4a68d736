"""The model as passes see it. Only this package reads and writes ONNX protobufs."""

from onnxopt.graph.autodiff import Gradient
from onnxopt.graph.constants import mostly_integers
from onnxopt.graph.describe import Users
from onnxopt.graph.functions import foreign_domains, inline
from onnxopt.graph.given import Model, on_disk
from onnxopt.graph.graph import Graph, Stored
from onnxopt.graph.inspect.expose import expose, without_defaults
from onnxopt.graph.inspect.extract_layer import WEIGHT, extract_layer
from onnxopt.graph.inspect.fake_quant import (
    settings,
    with_dynamic_rounding,
    with_fake_quant,
    with_trained_rounding,
    with_zeros_added,
)
from onnxopt.graph.inspect.macs import macs, parameters, weight_macs
from onnxopt.graph.inspect.observe import observe
from onnxopt.graph.inspect.ort_profile import Kernel, trace
from onnxopt.graph.inspect.partwise import Partwise
from onnxopt.graph.inspect.unsure_shape import of_unsure_shape
from onnxopt.graph.linear import Linear
from onnxopt.graph.normalise import fix_initializers, hoist, normalise, tie
from onnxopt.graph.onnx_file import LARGEST_INLINE, STAMP, Source, is_compressed, open_compressed, payload, read
from onnxopt.graph.rewrite.batchnorm_to_conv import batchnorm_to_conv
from onnxopt.graph.rewrite.equalise import Neighbours, channel_peaks, equalize, neighbours
from onnxopt.graph.rewrite.fusion import FusedOp, QdqSupport, fused_ops, is_quantized, runs_in_integers
from onnxopt.graph.rewrite.opset import OPSET, raise_opset
from onnxopt.graph.rewrite.own_copies import own_copies
from onnxopt.graph.rewrite.qdq import QuantParams
from onnxopt.graph.rewrite.smooth import ChannelRanges, Smoothing, channel_ranges, inputs_of, products, smooth, smoothed
from onnxopt.graph.rewrite.value_steps import (
    channels_apart,
    is_depthwise,
    is_dynamic,
    is_equalized,
    is_for_value,
    rounding,
    step_of_value,
)
from onnxopt.graph.sites import Site
from onnxopt.graph.strip import strip
from onnxopt.graph.wrapper import around, embed, is_only_wrapped, join, split, wrap

__all__ = [
    "LARGEST_INLINE",
    "OPSET",
    "STAMP",
    "WEIGHT",
    "ChannelRanges",
    "FusedOp",
    "Gradient",
    "Graph",
    "Kernel",
    "Linear",
    "Model",
    "Neighbours",
    "Partwise",
    "QdqSupport",
    "QuantParams",
    "Site",
    "Smoothing",
    "Source",
    "Stored",
    "Users",
    "around",
    "batchnorm_to_conv",
    "channel_peaks",
    "channel_ranges",
    "channels_apart",
    "embed",
    "equalize",
    "expose",
    "extract_layer",
    "fix_initializers",
    "foreign_domains",
    "fused_ops",
    "hoist",
    "inline",
    "inputs_of",
    "is_compressed",
    "is_depthwise",
    "is_dynamic",
    "is_equalized",
    "is_for_value",
    "is_only_wrapped",
    "is_quantized",
    "join",
    "macs",
    "mostly_integers",
    "neighbours",
    "normalise",
    "observe",
    "of_unsure_shape",
    "on_disk",
    "open_compressed",
    "own_copies",
    "parameters",
    "payload",
    "products",
    "raise_opset",
    "read",
    "rounding",
    "runs_in_integers",
    "settings",
    "smooth",
    "smoothed",
    "split",
    "step_of_value",
    "strip",
    "tie",
    "trace",
    "weight_macs",
    "with_dynamic_rounding",
    "with_fake_quant",
    "with_trained_rounding",
    "with_zeros_added",
    "without_defaults",
    "wrap",
]
