"""Optimizes a model, runs the file in every way that users can, and compares with stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import onnxopt
from onnxopt.data import quiet_session

Feeds = Mapping[str, Any]


def random(*shape: int) -> np.ndarray[Any, Any]:
    """Normal noise in float32, always the same."""
    return np.random.default_rng(5).standard_normal(shape).astype(np.float32)


def runs(path: Path) -> dict[str, onnxruntime.InferenceSession]:
    """Sessions of a compressed file: registered, loaded, decompressed."""
    options = onnxruntime.SessionOptions()
    onnxopt.register(options)
    return {
        "registered": onnxruntime.InferenceSession(str(path), options),
        "loaded": onnxopt.load(path),
        "decompressed": quiet_session(onnxopt.decompress(path).SerializeToString()),
    }


def check(model: onnx.ModelProto, tmp_path: Path, *feeds: Feeds, most: float | None = 0.05) -> None:
    """The lossless file has the same bits as the model, and the default one noise over signal of at most `most`; the
    latter is not made without a bound."""
    source = tmp_path / "model.onnx"
    source.write_bytes(model.SerializeToString())
    check_file(source, *feeds, most=most)


def check_file(source: Path, *feeds: Feeds, most: float | None = 0.05) -> None:
    """`check` of a model in a file."""
    stock, small = quiet_session(str(source)), source.with_name("small.onnx")
    names = [value.name for value in stock.get_outputs()]
    for lossless in (True,) if most is None else (True, False):
        result = onnxopt.optimize(source, small, lossless=lossless)
        assert not result.unchanged
        assert not result.not_calibrated
        for how, session in runs(small).items():
            assert [value.name for value in session.get_outputs()] == names, how
            for one in feeds:
                for wanted, got in zip(stock.run(names, one), session.run(names, one), strict=True):
                    if lossless:
                        assert wanted.tobytes() == got.tobytes(), how
                    elif most is not None and wanted.dtype.kind == "f":
                        error = np.linalg.norm(np.subtract(got, wanted, dtype=np.float64))
                        assert error <= most * np.linalg.norm(wanted.astype(np.float64)), how
