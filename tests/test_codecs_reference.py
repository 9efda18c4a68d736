"""The C++ codecs against reference decoders that follow the specification."""

import sys
from pathlib import Path

import numpy as np
import pytest

from onnxopt.errors import OnnxoptError

native = pytest.importorskip("onnxopt.native")
sys.path.insert(0, str(Path(__file__).parent / "reference"))
import bitpack  # noqa: E402
import context  # noqa: E402
import huffman  # noqa: E402

DECODERS = {"bitpack": bitpack.decode, "huffman": huffman.decode, "context": context.decode}
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
