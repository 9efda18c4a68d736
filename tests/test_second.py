"""Sums of products of inputs: of all pairs, of which half are kept, and of each input with itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibration import second
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.second import Pairs, Squares
from onnxopt.files import Mapped


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([1.0, 0.5]))
def test_pairs_and_squares_are_those_of_all_vectors(groups: int, inputs: int, seed: int, scale: float) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(second, "_BLOCK", 16)
        random = np.random.default_rng(seed)
        one, two = (random.integers(-8, 8, (groups, 5, inputs)).astype(np.float32) for _ in range(2))
        off, about = (random.integers(-4, 4, (groups, inputs)).astype(np.float64) for _ in range(2))
        pairs, squares = Pairs(groups, inputs), Squares(groups, inputs)
        for sums in (pairs, squares):
            later = type(sums)(groups, inputs)
            sums.add(one)
            later.add(two)
            half = scale * two.sum(1, dtype=np.float64) + len(two[0]) / 2 * off
            sums.include(later, scale, half, off)
        x = np.concatenate([one, scale * two.astype(np.float64) + off[:, None]], 1)
        wanted = x.swapaxes(1, 2) @ x / 10 - about[:, :, None] * about[:, None]
        np.testing.assert_allclose(pairs.averaged(10, [(-1, about)]), wanted, atol=1e-9)
        np.testing.assert_allclose(
            squares.averaged(10, [(-1, about)]), np.diagonal(wanted, axis1=1, axis2=2), atol=1e-9
        )


def test_sums_set_aside_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(second, "_LARGE", 1024)
    cache, found = Cache("aside"), []
    for aside in (False, True):
        random, sums = np.random.default_rng(0), Pairs(2, 300)
        for _ in range(3):
            later = Pairs(2, 300)
            later.add(random.standard_normal((2, 50, 300)).astype(np.float32))
            sums.include(later, 1.0, np.ones((2, 300)), np.ones((2, 300)))
            if aside:
                sums.set_aside(cache)
        found.append(sums.averaged(150, []))
    assert np.array_equal(*found)
    cache.close(keep=False)


def test_a_mapped_array_rests_and_is_written_to(tmp_path: Path) -> None:
    array = np.arange(10_000, dtype=np.float64).reshape(100, 100)
    mapped = Mapped(array, tmp_path)
    assert list(tmp_path.iterdir()) == []
    mapped.values[0] += 1
    mapped.rest()
    assert np.array_equal(mapped.values[0], array[0] + 1) and np.array_equal(mapped.values[1:], array[1:])
