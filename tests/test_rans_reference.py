"""The C++ rANS codec against the reference decoder that follows the specification."""

import numpy as np
import pytest
import rans
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt import native

CASES = {
    "one value": lambda rng, shape: np.full(shape, -7),
    "two bits": lambda rng, shape: rng.normal(0, 1, shape),
    "four bits": lambda rng, shape: rng.normal(0, 4, shape),
    "seven bits": lambda rng, shape: rng.normal(0, 30, shape),
    "twelve bits: low bits uncoded": lambda rng, shape: rng.normal(0, 1000, shape),
    "sparse": lambda rng, shape: rng.normal(0, 4, shape) * (rng.random(shape) < 0.15),
    "sparse, of many values": lambda rng, shape: rng.normal(0, 30, shape) * (rng.random(shape) < 0.1),
    "row and column classes": lambda rng, shape: (
        rng.normal(0, 4, shape) * np.exp(rng.normal(0, 1, (shape[0], 1))) * np.exp(rng.normal(0, 1, (1, shape[1])))
    ),
    "periodic columns": lambda rng, shape: rng.normal(0, 4, shape) * (1 + np.arange(shape[1]) % 9),
    "outliers: escapes": lambda rng, shape: rng.normal(0, 2, shape) + 1e9 * (rng.random(shape) < 0.001),
    "indices": lambda rng, shape: rng.integers(0, 256, shape),
}


@pytest.mark.parametrize("shape", [(1, 1), (5, 7), (64, 90), (48, 576), (700, 63)], ids=str)
@pytest.mark.parametrize("case", CASES)
def test_reference_agrees(case: str, shape: tuple[int, int]) -> None:
    q = np.rint(CASES[case](np.random.default_rng(1), shape)).astype(np.int32)
    _, data = native.encode(q, "rans")
    np.testing.assert_array_equal(rans.decode(data, *shape), q)
    np.testing.assert_array_equal(native.decode("rans", data, *shape), q)


def test_reference_agrees_on_fine_frequencies() -> None:
    rng, shape = np.random.default_rng(1), (256, 300)
    q = np.rint(CASES["sparse, of many values"](rng, shape)).astype(np.int32)
    _, data = native.encode(q, "rans")
    assert 8 + (data[0] >> 4) == 15
    np.testing.assert_array_equal(rans.decode(data, *shape), q)


@settings(max_examples=100)
@given(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=60))
def test_any_integers(values: list[int]) -> None:
    q = np.array([values], np.int32)
    _, data = native.encode(q, "rans")
    np.testing.assert_array_equal(rans.decode(data, *q.shape), q)
    np.testing.assert_array_equal(native.decode("rans", data, *q.shape), q)
