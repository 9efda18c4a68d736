"""The container's writer against the native reader."""

from __future__ import annotations

import json
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from builders import sparse, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt import native
from onnxopt.build import container
from onnxopt.build.packed import Packed
from onnxopt.encoding import STORABLE, Affine, Codebook, Encoding, Raw, nearest_log_step, step_of
from onnxopt.files import Spool


def read_back(encodings: dict[str, Encoding], **options: str) -> native.Container:
    return native.Container(container.write(b"model", encodings, "{}", **options))


def scaled(shape: tuple[int, ...], axis: int, dtype: str = "float32", seed: int = 0) -> Affine:
    rng = np.random.default_rng(seed)
    q = np.rint(rng.laplace(0, 4, shape)).astype(np.int32)
    return Affine(q, rng.integers(-40, 20, shape[axis]).astype(np.int16), axis, np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((64,), 0), ((16, 9), 0), ((16, 9), 1), ((8, 4, 3, 3), 0), ((8, 4, 3, 3), 1), ((2, 12, 5), 1), ((5, 1, 7, 1), 0)],
)
def test_affine_values_are_what_the_encoding_says(shape: tuple[int, ...], axis: int, dtype: str) -> None:
    weight = scaled(shape, axis, dtype)
    got = read_back({"w": weight}).decode()["w"]
    assert got.dtype == weight.dtype
    assert got.tobytes() == weight.values().tobytes()


def test_one_scale_may_serve_all() -> None:
    q = np.arange(-50, 50, dtype=np.int32)
    weight = Affine(q, np.array([-7], np.int16), 0, np.dtype(np.float32))
    assert read_back({"b": weight}).decode()["b"].tobytes() == weight.values().tobytes()


def test_equal_scales_are_stored_once() -> None:
    one, other = scaled((16, 9), 0), scaled((16, 9), 0, seed=1)
    bias = Affine(np.arange(16, dtype=np.int32), one.k, 0, np.dtype(np.float32))
    stored = read_back({"w": one, "v": other, "b": bias})
    assert [entry.hidden for entry in stored.entries] == [True, False, True, False, False]
    assert stored.decode()["b"].tobytes() == bias.values().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_shared_values_come_from_the_table(dtype: str) -> None:
    rng = np.random.default_rng(0)
    weight = Codebook(rng.integers(0, 16, (20, 30)).astype(np.int32), rng.normal(0, 20, 16).astype(dtype))
    assert read_back({"w": weight}).decode()["w"].tobytes() == weight.values().tobytes()


@given(sparse(), st.sampled_from(native.PREFERENCES))
@settings(max_examples=60)
def test_any_density_comes_back(values: np.ndarray[Any, np.dtype[np.int32]], prefer: str) -> None:
    """As integers, as a grid, and as shared values."""
    index, table = np.unique(values % 256, return_inverse=True)[::-1]
    encodings: dict[str, Encoding] = {
        "integers": Raw(np.resize(values, (2, values.size))),
        "grid": Affine(values >> 8, np.zeros(1, np.int16), 0, np.dtype(np.float32)),
        "shared": Codebook(index.reshape(values.shape).astype(np.int32), table.astype(np.float32)),
    }
    got = read_back(encodings, prefer=prefer).decode()
    assert all(got[name].tobytes() == weight.values().tobytes() for name, weight in encodings.items())


@given(st.sampled_from(sorted(STORABLE, key=str)), st.data())
@settings(max_examples=80)
def test_any_array_comes_back_bit_for_bit(dtype: np.dtype[np.generic], data: st.DataObject) -> None:
    """Types that NumPy lacks are drawn as bits."""
    lacking = dtype in native.PAIRED | native.EIGHT_BITS | native.SIXTEEN_BITS
    drawn = np.dtype(f"uint{8 * dtype.itemsize}") if lacking else dtype
    values = data.draw(hnp.arrays(drawn, hnp.array_shapes(max_dims=4, max_side=12))).view(dtype)
    got = read_back({"x": Raw(values)}).decode()["x"]
    assert (got.dtype, got.shape) == (values.dtype, values.shape)
    assert native.file_bytes(got) == native.file_bytes(values)


def test_pairs_share_a_byte_the_first_in_its_low_half() -> None:
    values = np.array([[1, -2, 3], [-4, 5, -6], [7, -8, 0]], ml_dtypes.int4)
    assert native.file_bytes(values) == bytes((0xE1, 0xC3, 0xA5, 0x87, 0x00))
    stored = read_back({"x": Raw(values)})
    assert (stored.version, stored.entries[0].dims, stored.entries[0].size) == (2, (3, 3), 5)


def test_large_tensors_are_cut_into_chunks_and_come_back() -> None:
    weight = scaled((3000, 1000), 0)
    stored = read_back({"w": weight, "v": Raw(weights(1500, 1000))})
    assert stored.decode(threads=2)["w"].tobytes() == weight.values().tobytes()


def test_names_plan_and_model_are_kept() -> None:
    plan = json.dumps({"grün": 1}, ensure_ascii=False)
    with native.Container(container.write(b"\0inner", {"größe/w:0": Raw(weights(9, 9))}, plan)) as stored:
        assert [e.name for e in stored.entries] == ["größe/w:0"]
        assert (stored.model, stored.plan) == (b"\0inner", plan)


def test_values_crc_is_that_of_the_decoded_weights() -> None:
    encodings: dict[str, Encoding] = {"w": scaled((30, 40), 0), "x": Raw(weights(70))}
    stored = read_back(encodings)
    crc = 0
    for weight in encodings.values():
        crc = zlib.crc32(weight.values().tobytes(), crc)
    assert stored.values_crc == crc


@pytest.mark.parametrize("prefer", native.PREFERENCES)
def test_two_writes_give_the_same_bytes(prefer: str) -> None:
    encodings: dict[str, Encoding] = {"w": scaled((200, 300), 0), "x": Raw(weights(70, 80))}
    assert container.write(b"m", encodings, "{}", prefer) == container.write(b"m", encodings, "{}", prefer)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "bfloat16", "int4"])
def test_what_is_known_is_not_coded_again(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).integers(-8, 8, (64, 40)).astype(getattr(ml_dtypes, dtype, dtype))
    every, known = {"w": Raw(values), "v": Raw(values.reshape(40, 64))}, container.Known()
    plain = container.write(b"", every, "{}")
    assert plain == _joined(container.packed(b"", every, "{}", known=known))
    monkeypatch.setattr(native, "lossless_stream", None)
    assert plain == _joined(container.packed(b"", every, "{}", known=known))


def test_chunks_on_the_disk_are_the_same(tmp_path: Path) -> None:
    every: dict[str, Encoding] = {"w": scaled((200, 300), 0), "x": Raw(weights(1200, 1000))}
    packed = container.packed(b"m", every, "{}", known=container.Known(partial(Spool, tmp_path)))
    assert _joined(packed) == container.write(b"m", every, "{}")
    assert packed.size == len(_joined(packed))


def _joined(packed: Packed) -> bytes:
    return b"".join(packed.pieces())


def test_preferences_keep_their_word() -> None:
    encodings: dict[str, Encoding] = {"w": scaled((400, 500), 0)}
    sizes = {prefer: len(container.write(b"m", encodings, "{}", prefer)) for prefer in native.PREFERENCES}
    assert sizes["smallest"] <= sizes["balanced"] <= sizes["fastest"]


def test_steps_are_nearest_in_ratio() -> None:
    wished = np.exp(np.random.default_rng(0).uniform(-20, 20, 1000))
    ratio = step_of(nearest_log_step(wished)) / wished
    assert ratio.max() <= 2 ** (1 / 8) * 1.0001
    assert ratio.min() >= 2 ** (-1 / 8) * 0.9999


def test_zeros_behind_the_first_chunk_are_no_bomb() -> None:
    q = np.zeros((2560, 1024), np.int32)
    q[:1024] = np.rint(np.random.default_rng(0).normal(0, 2, (1024, 1024)))
    data = container.write(b"model", {"w": Affine(q, np.zeros(2560, np.int16), 0, np.dtype(np.float32))}, "{}")
    with native.Container(data) as stored:
        assert (stored.decode()["w"] == q).all()
