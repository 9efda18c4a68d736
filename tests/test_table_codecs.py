"""The table of codecs measures what it says."""

from __future__ import annotations

import numpy as np
import pytest

from common import codec_sizes
from common.codec_sizes import Setting, Size
from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import Affine
from tables import codecs


def weight(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32)


@pytest.mark.parametrize(("shape", "axis"), [((64, 16, 3, 3), 0), ((16, 64, 3, 3), 1), ((200, 30), 1)])
def test_every_output_uses_its_whole_range(shape: tuple[int, ...], axis: int) -> None:
    q = codec_sizes.integers(weight(*shape), axis, Setting(0, 5)).reshape(shape)
    others = tuple(i for i in range(len(shape)) if i != axis)
    assert (np.abs(q).max(others) == 15).all()


def test_an_output_of_zeros_stays_zeros() -> None:
    w = weight(8, 100)
    w[3] = 0
    assert not codec_sizes.integers(w, 0, Setting(0.8, 4))[3].any()


@pytest.mark.parametrize("bits", [2, 5, 8])
@pytest.mark.parametrize("zeros", [0.8, 0.9])
def test_exactly_the_smallest_weights_become_zero(bits: int, zeros: float) -> None:
    w = weight(50, 200)
    q = codec_sizes.integers(w, 0, Setting(zeros, bits)).reshape(w.shape)
    assert (q == 0).mean() == pytest.approx(zeros, abs=1e-4)
    assert np.abs(w[q == 0]).max() < np.abs(w[q != 0]).min()


def test_entropy_of_known_distributions() -> None:
    assert codec_sizes.entropy(np.full((5, 8), 7, np.int32)) == (0, 1)
    assert codec_sizes.entropy(np.arange(-8, 8, dtype=np.int32).reshape(4, 4)) == (8, 16)  # 16 times 4 bits


@pytest.mark.parametrize("shape", [(64, 16, 3, 3), (1100, 1000)])
def test_the_writers_choice_is_what_the_container_holds(shape: tuple[int, ...]) -> None:
    w, setting = weight(*shape), Setting(0, 4)
    leaf = Affine(codec_sizes.integers(w, 0, setting).reshape(shape), np.zeros(1, np.int16), 0, np.dtype(np.float32))
    with native.Container(container.write(b"", {"w": leaf}, "")) as stored:
        assert codec_sizes.tensor_size(w, 0, setting).chosen == stored.entries[-1].coded_size


def test_missed_goals_are_listed() -> None:
    found = {Setting(0, 4): Size(1000, 500, 505, 495, 1.01)}
    rows = codecs.missed_sheet({"resnet20": found, "lenet5": found}).rows
    assert [row[:4] for row in rows] == [
        ["resnet20, 4 bits", "choice", "0.9900", "0.98"],
        ["resnet20, 4 bits", "rans", "1.0100", "1.005"],
        ["lenet5, 4 bits", "rans", "1.0100", "1.005"],
    ]
