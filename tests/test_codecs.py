"""One contract over every codec: integers come back, damage is refused."""

from __future__ import annotations

import numpy as np
import pytest
from builders import sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxopt import native
from onnxopt.errors import ContainerError, OnnxoptError

INTEGER_CODECS = [name for name in native.CODECS if name != "lossless"]
matrices = hnp.arrays(
    np.int32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=40),
    elements=st.one_of(st.integers(-4, 4), st.integers(-(2**31), 2**31 - 1)),
)


def gaussian(rows: int, cols: int, sigma: float, seed: int = 0) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    return np.rint(np.random.default_rng(seed).normal(0, sigma, (rows, cols))).astype(np.int32)


@pytest.mark.parametrize("codec", INTEGER_CODECS)
@given(q=matrices)
@settings(max_examples=60)
def test_integers_come_back(codec: str, q: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> None:
    try:
        _, data = native.encode(q, codec)
    except OnnxoptError as error:
        assert "cannot hold" in str(error)  # a codec may decline, but says so
        return
    assert (native.decode(codec, data, *q.shape) == q).all()
    assert native.encode(q, codec)[1] == data


@pytest.mark.parametrize("codec", INTEGER_CODECS)
@given(values=sparse(), rows=st.integers(1, 40))
@settings(max_examples=60)
def test_any_density_comes_back(codec: str, values: np.ndarray[tuple[int], np.dtype[np.int32]], rows: int) -> None:
    q = np.resize(values, (rows, -(-values.size // rows)))
    try:
        _, data = native.encode(q, codec)
    except OnnxoptError as error:
        assert "cannot hold" in str(error)
        return
    assert (native.decode(codec, data, *q.shape) == q).all()


@pytest.mark.parametrize("codec", INTEGER_CODECS)
@pytest.mark.parametrize("sigma", [0.3, 2, 8, 60, 1000])
def test_weights_like_integers_come_back(codec: str, sigma: float) -> None:
    for shape in ((1, 1), (1, 5000), (5000, 1), (300, 27), (64, 1152)):
        q = gaussian(*shape, sigma)
        try:
            _, data = native.encode(q, codec)
        except OnnxoptError as error:
            assert (codec, "cannot hold" in str(error)) == ("huffman", True)  # too many distinct values
            continue
        assert (native.decode(codec, data, *shape) == q).all()


@given(q=matrices)
@settings(max_examples=60)
@pytest.mark.parametrize("prefer", native.PREFERENCES)
def test_the_choice_always_finds_a_codec(prefer: str, q: np.ndarray[tuple[int, int], np.dtype[np.int32]]) -> None:
    codec, data = native.encode(q, prefer=prefer)
    assert (native.decode(codec, data, *q.shape) == q).all()


@pytest.mark.parametrize("place", [None, 5, -1])
def test_a_matrix_of_zeros_is_no_bomb_and_decodes_fast(place: int | None) -> None:
    """Fillers take the bytes that a reader asks for; the smallest form takes fewer, and a hundred times as long."""
    q = np.zeros((64, 4096), np.int32)
    if place is not None:
        q.flat[place] = 3
    for prefer, wanted in (("balanced", "huffman"), ("fastest", "huffman"), ("smallest", "context")):
        codec, data = native.encode(q, prefer=prefer)
        assert codec == wanted
        assert len(data) >= q.size / 2048
        assert np.array_equal(native.decode(codec, data, *q.shape), q)


@pytest.mark.parametrize("codec", INTEGER_CODECS)
def test_every_truncation_is_refused(codec: str) -> None:
    q = gaussian(20, 30, 3)
    _, data = native.encode(q, codec)
    for cut in range(len(data)):
        with pytest.raises(ContainerError):
            native.decode(codec, data[:cut], *q.shape)
    with pytest.raises(ContainerError):
        native.decode(codec, data + b"\0", *q.shape)


@pytest.mark.parametrize("codec", INTEGER_CODECS)
@given(data=st.binary(max_size=300), rows=st.integers(0, 40), cols=st.integers(0, 40))
@settings(max_examples=200)
def test_noise_never_crashes_a_decoder(codec: str, data: bytes, rows: int, cols: int) -> None:
    try:
        assert native.decode(codec, data, rows, cols).shape == (rows, cols)
    except ContainerError as error:
        assert str(error)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int64"])
@given(rows=st.integers(1, 12), cols=st.integers(1, 12), data=st.data())
@settings(max_examples=60)
def test_lossless_gives_every_bit_back(dtype: str, rows: int, cols: int, data: st.DataObject) -> None:
    size = rows * cols * np.dtype(dtype).itemsize
    values = np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), dtype).reshape(rows, cols)  # NaNs too
    coded = native.encode_lossless(values)
    assert native.decode_lossless(coded, dtype, rows, cols).tobytes() == values.tobytes()


FLOATS = ("float16", "float32", "float64")
ODD = ("nan", "-nan", "inf", "-inf", "1e-320", "-1e-45", "6e-8", "1")


@st.composite
def sparse_floats(draw: st.DrawFn, dtype: str) -> np.ndarray:
    """Any bits, some that mean something special, and any share of zeros of either sign."""
    rows, cols = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    bits = np.dtype(dtype.replace("float", "uint"))
    values = np.frombuffer(rng.bytes(rows * cols * bits.itemsize), bits).reshape(rows, cols)
    with np.errstate(over="ignore"):
        odd = np.array(ODD, np.float64).astype(dtype).view(bits)
    values = np.where(rng.random((rows, cols)) < draw(st.floats(0, 1)), rng.choice(odd, (rows, cols)), values)
    zeros = np.where(rng.random((rows, cols)) < draw(st.floats(0, 1)), bits.type(0), np.array(-0.0, dtype).view(bits))
    return np.where(rng.random((rows, cols)) < draw(st.floats(0, 1)), zeros, values).view(dtype)


@pytest.mark.parametrize("dtype", FLOATS)
@given(data=st.data())
@settings(max_examples=100)
def test_zeros_among_floats_come_back(dtype: str, data: st.DataObject) -> None:
    values = data.draw(sparse_floats(dtype))
    coded = native.encode_lossless(values)
    assert native.decode_lossless(coded, dtype, *values.shape).tobytes() == values.tobytes()


def pruned(dtype: str, zeros: float, negative: bool = False) -> np.ndarray:
    rng = np.random.default_rng(3)
    values = rng.normal(0, 0.05, (150, 200)).astype(dtype)
    zero = np.copysign(0, values) if negative else values.dtype.type(0)
    return np.where(rng.random(values.shape) < zeros, zero, values)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("zeros", [0.03, 0.5, 0.8, 0.95, 0.999])
@pytest.mark.parametrize("dtype", FLOATS)
def test_zeros_cost_what_telling_them_takes(dtype: str, zeros: float, negative: bool) -> None:
    values = pruned(dtype, zeros, negative)
    _, counts = np.unique(np.where(values == 0, np.signbit(values), 2), return_counts=True)
    apart = values.size * np.log2(values.size) - (counts * np.log2(counts)).sum()
    others = native.encode_lossless(values[values != 0].reshape(1, -1))
    assert len(native.encode_lossless(values)) <= 1.02 * apart / 8 + len(others) + 16


@pytest.mark.parametrize("dtype", FLOATS)
def test_damaged_zeros_never_crash_a_decoder(dtype: str) -> None:
    values = pruned(dtype, 0.7)[:60, :40]
    coded = native.encode_lossless(values)
    assert coded[0] == 3
    for cut in range(len(coded)):
        with pytest.raises(ContainerError):
            native.decode_lossless(coded[:cut], dtype, *values.shape)
    for bit in range(0, 8 * len(coded), 7):
        damaged = bytearray(coded)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert native.decode_lossless(bytes(damaged), dtype, *values.shape).shape == values.shape
        except ContainerError as error:
            assert str(error)


def test_every_instruction_set_decodes_the_same() -> None:
    q = gaussian(257, 1031, 6)
    scales = np.random.default_rng(1).random(257, dtype=np.float32)
    wanted = q.astype(np.float32) * scales[:, None]
    for codec in INTEGER_CODECS:
        _, data = native.encode(q, codec)
        for simd in ("scalar", "avx2", "avx512", "neon"):
            try:
                native.set_simd(simd)
            except OnnxoptError:
                continue  # not on this machine
            try:
                assert native.decode_floats(codec, data, scales, 1031).tobytes() == wanted.tobytes(), (codec, simd)
            finally:
                native.set_simd(None)
