"""A compressed model takes no more memory to load than the plain one, in every way of loading."""

from __future__ import annotations

import sys
from pathlib import Path

import onnxruntime
import pytest

import onnxopt
from common.kept import fresh
from onnxopt.measure import memory
from tables.loader import write_models

MIB = 1 << 20

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is given back on Linux")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VGG-16 of a quarter of the channels: 35 MB of weights."""
    made = tmp_path_factory.mktemp("models")
    fresh(write_models, made, 1 / 4)
    return made


def peak(folder: Path, way: str) -> float:
    """MiB that loading adds to this process, without the copies of weights that other layouts take."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    before = memory.peak()
    path = str(folder / ("plain.onnx" if way == "plain" else "compressed.onnx"))
    if way == "load":
        session = onnxopt.load(path, options)
    else:
        if way == "registered":
            onnxopt.register(options)
        session = onnxruntime.InferenceSession(path, options)
    after = memory.peak()
    assert session is not None and before is not None and after is not None
    return (after - before) / MIB


@pytest.mark.slow
def test_peak(folder: Path) -> None:
    peaks = {way: fresh(peak, folder, way) for way in ("plain", "registered", "load")}
    assert peaks["plain"] > 35  # its weights
    for way in ("registered", "load"):
        assert peaks[way] < 1.05 * peaks["plain"] + 2, peaks


def test_what_was_given_back_is_not_taken_for_weights(folder: Path, tmp_path: Path) -> None:
    """A model that the runtime saves after that: an error says what to do."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("onnxopt.keep_container", "0")
    options.optimized_model_filepath = str(tmp_path / "saved.onnx")
    onnxopt.register(options)
    onnxruntime.InferenceSession(str(folder / "compressed.onnx"), options)
    with pytest.raises(onnxopt.OnnxoptError, match=r"zeros.*onnxopt.keep_container = 1 keeps them"):
        onnxopt.load(tmp_path / "saved.onnx")
