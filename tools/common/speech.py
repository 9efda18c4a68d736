"""A minute of speech as feeds of the speech models, made by the script that lies beside the data."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import numpy as np

from common import realdata

FEEDS = {"silero_half": "silero_half", "gtcrn": "gtcrn", "kws_dscnn": "kws"}
"""By model, the function of the script that gives its feeds."""


def feeds(model: str) -> list[dict[str, Any]]:
    """One-sample feeds of a model, in the order of the recording; states are those of the original model."""
    found: list[dict[str, Any]] = getattr(_script(), FEEDS[model])(realdata.plain_session(realdata.path_of(model)))
    return found


def wave() -> realdata.Array:
    """The recording, -1 to 1, at 16 kHz."""
    return np.asarray(_script().speech())


def log_bands(bands: int) -> realdata.Array:
    """[frames, bands]: logarithms of its power in bands of equal width in mel, every 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(wave(), 400)[::160]
    power = np.square(np.abs(np.fft.rfft(frames * np.hamming(400), 512)))
    edges = 700 * np.expm1(np.linspace(0, 1127 * np.log1p(8000 / 700), bands + 2) / 1127)
    at = np.arange(257) * 16000 / 512
    rising, falling = ((at[:, None] - edges[:-2]) / np.diff(edges)[:-1], (edges[2:] - at[:, None]) / np.diff(edges)[1:])
    triangles = np.clip(np.minimum(rising, falling), 0, None) * 2 / (edges[2:] - edges[:-2])
    return np.asarray(np.log10(power @ triangles + 1e-10), np.float32)


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("speech", realdata.DATA / "speech.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
