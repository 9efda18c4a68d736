"""The C++ codecs against reference decoders that follow the specification."""

import numpy as np
import pytest

from onnxopt.errors import OnnxoptError

native = pytest.importorskip("onnxopt.native")

import adaptive  # noqa: E402
import bitpack  # noqa: E402
import context  # noqa: E402
import huffman  # noqa: E402
import lossless  # noqa: E402
import rans  # noqa: E402

INSIDE = {
    0: lambda data, rows, cols: native.decode("raw", data, rows, cols),
    1: bitpack.decode,
    2: huffman.decode,
    3: rans.decode,
    4: context.decode,
    6: adaptive.decode,
}
"""By codec, what decodes the matrices inside lossless elements."""
DECODERS = {
    "bitpack": bitpack.decode,
    "huffman": huffman.decode,
    "context": context.decode,
    "adaptive": adaptive.decode,
}
CASES = {
    "dense": lambda rng, shape, s: rng.normal(0, s, shape),
    "sparse": lambda rng, shape, s: rng.normal(0, s, shape) * (rng.random(shape) < 0.1),
    "unsigned": lambda rng, shape, s: np.abs(rng.normal(0, s, shape)) + s,
    "smooth": lambda rng, shape, s: np.cumsum(rng.normal(0, s / 9, shape), 1),
}


@pytest.mark.parametrize("scale", [0.2, 2, 30, 500, 1e6, 1e9])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (40, 3), (30, 90)], ids=str)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("codec", DECODERS)
def test_reference_agrees(codec: str, case: str, shape: tuple[int, int], scale: float) -> None:
    drawn = np.rint(CASES[case](np.random.default_rng(1), shape, scale))
    q = np.clip(drawn, -(2**31), 2**31 - 1).astype(np.int32)
    try:
        _, data = native.encode(q, codec)
    except OnnxoptError:
        assert codec == "huffman"  # it does not hold every matrix
        return
    np.testing.assert_array_equal(DECODERS[codec](data, *shape), q)
    np.testing.assert_array_equal(native.decode(codec, data, *shape), q)


@pytest.mark.parametrize("zeros", [0, 0.1, 0.6, 0.97])
@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (30, 90)], ids=str)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64"])
def test_lossless_reference_agrees(dtype: str, shape: tuple[int, int], zeros: float) -> None:
    rng = np.random.default_rng(1)
    drawn = rng.normal(0, 1e9 if dtype == "int64" else 0.1, shape)
    values = np.where(rng.random(shape) < zeros, np.copysign(0, drawn), drawn).astype(dtype)
    data = native.encode_lossless(values)
    assert lossless.decode(data, values.itemsize, *shape, INSIDE) == values.tobytes()


@pytest.mark.parametrize("values", [2, 300])
def test_lossless_reference_agrees_on_few_values(values: int) -> None:
    rng = np.random.default_rng(1)
    drawn = rng.choice(rng.normal(0, 0.1, values).astype(np.float32), (40, 60))
    assert lossless.decode(native.encode_lossless(drawn), 4, *drawn.shape, INSIDE) == drawn.tobytes()
