"""Inputs for a model: the user's data, or made-up ones where there is none."""

from onnxopt.data.hooks import blamed, is_hook, load_hook, name_of
from onnxopt.data.preprocess import PRESETS
from onnxopt.data.random import Array, CannotRun, input_scale, quiet_session, runnable_feeds
from onnxopt.data.source import Spec, open_data
from onnxopt.data.stream import Batch, Data, split
from onnxopt.data.synthetic import synthetic

__all__ = [
    "PRESETS",
    "Array",
    "Batch",
    "CannotRun",
    "Data",
    "Spec",
    "blamed",
    "input_scale",
    "is_hook",
    "load_hook",
    "name_of",
    "open_data",
    "quiet_session",
    "runnable_feeds",
    "split",
    "synthetic",
]
