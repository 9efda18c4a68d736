"""Inputs for a model: the user's data, or synthetic inputs if there is none."""

from onnxopt.data.hints import Hints, input_scale
from onnxopt.data.hooks import blamed, is_hook, load_hook, name_of
from onnxopt.data.preprocess import PRESETS, ImageOptions
from onnxopt.data.providers import check_used, providers, providers_in_use, went_without
from onnxopt.data.random import Array, CannotRun, chosen_session, quiet_session, runnable_feeds
from onnxopt.data.readers import Spec
from onnxopt.data.resting import Resting
from onnxopt.data.sessions import (
    cores,
    custom_ops,
    keep_to_cores,
    libraries_in_use,
    one_core,
    session_options,
    spare,
    used_in_place,
)
from onnxopt.data.source import open_data
from onnxopt.data.stream import Batch, Data, Pending, by_law, file_digest, joined, marked, split
from onnxopt.data.synthetic import ROW_NOISE, synthetic
from onnxopt.data.tokens import Part, parts_of

__all__ = [
    "PRESETS",
    "ROW_NOISE",
    "Array",
    "Batch",
    "CannotRun",
    "Data",
    "Hints",
    "ImageOptions",
    "Part",
    "Pending",
    "Resting",
    "Spec",
    "blamed",
    "by_law",
    "check_used",
    "chosen_session",
    "cores",
    "custom_ops",
    "file_digest",
    "input_scale",
    "is_hook",
    "joined",
    "keep_to_cores",
    "libraries_in_use",
    "load_hook",
    "marked",
    "name_of",
    "one_core",
    "open_data",
    "parts_of",
    "providers",
    "providers_in_use",
    "quiet_session",
    "runnable_feeds",
    "session_options",
    "spare",
    "split",
    "synthetic",
    "used_in_place",
    "went_without",
]
