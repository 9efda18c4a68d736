"""What the codecs promise, on the integers of real models. Most of a minute, so marked slow.

The whole picture is docs/codecs.md; this keeps a part of it true. ONNXOPT_DATA names the folder of models.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import onnxopt
from common import codec_sizes, codec_speed, realdata, whole_files
from common.codec_sizes import Setting
from onnxopt import native
from onnxopt.encoding import matrix_view
from tables import codecs
from tables.codecs import RANS_GOAL, goal

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
    ),
]

DENSE = [Setting(0, bits) for bits in codecs.BITS]
SPARSE = [Setting(zeros, bits) for zeros in codecs.ZEROS for bits in (4, 5)]


def file(model: str) -> Path:
    return realdata.MODELS / f"{model}.onnx"


FOR_SPEED = 0.005
"""What a codec that decodes faster may cost, as a share of the entropy."""


@pytest.mark.parametrize("model", ["resnet20", "mobilenet_v1_0.25", "squeezenet1.0", "dtln2_lstm"])
def test_the_writers_choice_is_below_order_0(model: str) -> None:
    for setting, size in codec_sizes.model_sizes(file(model), DENSE + SPARSE).items():
        assert size.ratio <= goal(model) + FOR_SPEED, setting
        assert size.rans <= RANS_GOAL, setting


@pytest.mark.parametrize("model", ["resnet20", "gtcrn", "silero_half", "logreg_zipmap"])
def test_lossless_is_smaller_than_zip_and_zstd(model: str) -> None:
    assert whole_files.sizes(file(model)).share <= 0.95


@pytest.mark.parametrize("model", ["resnet20", "lenet5", "mobilenet_v1_0.25", "silero_vad"])
def test_lossless_gives_every_bit_back(model: str, tmp_path: Path) -> None:
    onnxopt.optimize(file(model), tmp_path / "small.onnx", lossless=True)
    onnxopt.decompress(tmp_path / "small.onnx", tmp_path / "plain.onnx")
    wanted, got = (list(codec_sizes.weights(path)) for path in (file(model), tmp_path / "plain.onnx"))
    assert len(got) == len(wanted) > 0
    for (a, _), (b, _) in zip(wanted, got, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("zeros", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("model", ["resnet20", "lenet5", "mobilenet_v1_0.25", "silero_vad"])
def test_pruned_floats_cost_no_more_than_their_zeros_and_the_others(model: str, dtype: str, zeros: float) -> None:
    weight = max((found for found, _ in codec_sizes.weights(file(model))), key=np.size).astype(dtype)
    w = weight.reshape(matrix_view(weight.shape, 0))
    kept = np.abs(w) > np.quantile(np.abs(w), zeros)
    zeros_alone, _ = codec_sizes.entropy(kept.astype(np.int32))
    others_alone = len(native.encode_lossless(w[kept].reshape(1, -1)))
    assert len(native.encode_lossless(np.where(kept, w, 0))) <= 1.005 * (zeros_alone + others_alone)


def best_seconds(*tasks: Callable[[], object]) -> list[float]:
    """The shortest of twenty runs of each task, taken in turn, so that other work on the machine slows all alike."""
    shortest = [float("inf")] * len(tasks)
    for _ in range(20):
        for i, task in enumerate(tasks):
            started = time.perf_counter()
            task()
            shortest[i] = min(shortest[i], time.perf_counter() - started)
    return shortest


def as_bytes(q: codec_sizes.Integers) -> bytes:
    """What the yardstick, zlib, takes. A number of bytes a second would test the processor, and these differ."""
    return q.astype(np.int8).tobytes()


@pytest.mark.alone
def test_rans_decodes_faster_than_inflate_with_and_without_simd() -> None:
    q = next(iter(codec_sizes.speed_inputs().values()))
    data, deflated = native.encode(q, "rans")[1], zlib.compress(as_bytes(q))
    scales = np.full(len(q), 0.01, np.float32)
    try:
        for instructions in codec_speed.available():
            native.set_simd(instructions)
            ours, inflate = best_seconds(
                lambda: native.decode_floats("rans", data, scales, q.shape[1]), lambda: zlib.decompress(deflated)
            )
            assert ours * (1 if instructions == "scalar" else 2) <= inflate, instructions
    finally:
        native.set_simd(None)


@pytest.mark.alone
def test_rans_encodes_nearly_as_fast_as_the_fastest_deflate() -> None:
    for name, q in codec_sizes.speed_inputs().items():
        raw = as_bytes(q)
        ours, deflate = best_seconds(lambda q=q: native.encode(q, "rans"), lambda raw=raw: zlib.compress(raw, 1))
        assert ours <= 4 * deflate, name
