"""Synthetic images: their statistics, and that they are reproducible."""

from __future__ import annotations

import time

import numpy as np
import pytest
from builders import lstm, model
from feeding import everything, taking
from onnx import TensorProto, helper

from onnxopt.data import Hints, quiet_session, synthetic


@pytest.mark.parametrize(
    ("shape", "batch"),
    [(["n", 3, 32, 32], 16), ([None, 24, 40, 3], 16), ([2, 1, 28, 28], 2), (["n", 3, "h", "w"], 16), ([1, 3, 8, 8], 1)],
)
@pytest.mark.slow
def test_dead_leaves_are_normal_and_always_the_same(shape: list[int | str | None], batch: int) -> None:
    session = taking(x=shape)
    data = synthetic(session, None, 32)
    assert data.name == "synthetic images"
    images = np.concatenate([b.feeds["x"] for b in data]).astype(np.float64)
    assert len(images) == data.count() == 32
    assert {b.size for b in data} == {batch}
    axis = 1 if shape[1] in (1, 3) else 3
    others = tuple(i for i in range(4) if i != axis)
    assert images.mean(others) == pytest.approx(0, abs=1e-2)
    assert images.std(others) == pytest.approx(1, rel=1e-2)
    assert (images == np.concatenate([b.feeds["x"] for b in synthetic(session, None, 32)])).all()
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32, "no image twice"


def test_dead_leaves_have_the_spectrum_of_photographs() -> None:
    """Power falls about as f^-2, where noise's does not fall; and channels go together."""
    (batch, *_) = synthetic(taking(x=["n", 3, 128, 128]), count=16)
    images = batch.feeds["x"]
    power = (np.abs(np.fft.fft2(images)) ** 2).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    rings = [(frequency >= low) & (frequency < 1.4 * low) for low in (0.02, 0.04, 0.08, 0.16)]
    slope = np.polyfit(np.log([frequency[r].mean() for r in rings]), np.log([power[r].mean() for r in rings]), 1)[0]
    assert -3 < slope < -1.5
    assert np.corrcoef(images.transpose(1, 0, 2, 3).reshape(3, -1)).min() > 0.7


def test_other_inputs_get_signals_of_several_laws() -> None:
    data = synthetic(quiet_session(lstm().SerializeToString()), count=20)
    assert data.name == "synthetic signals"
    assert len(data.laws) > 1
    assert data.count() == sum(law.count() for law in data.laws) >= 20
    assert everything(data) == everything(data)
    assert synthetic(taking(x=["n", 2, 32, 32])).name == "synthetic signals"
    assert synthetic(taking(x=["n", 3, 4, 4])).name == "synthetic signals"
    pixels = synthetic(taking(TensorProto.UINT8, x=[1, 16, 16, 3]), count=8)
    assert len(np.unique(np.concatenate([b.feeds["x"] for b in pixels]))) > 50


def test_the_scale_of_the_input_is_met() -> None:
    nodes = [helper.make_node("Sub", ["x", "m"], ["a"]), helper.make_node("Div", ["a", "s"], ["b"])]
    nodes += [helper.make_node("MaxPool", ["b"], ["y"], kernel_shape=[2, 2])]
    made = model(
        nodes, {"m": np.float32(127.5), "s": np.float32(128)}, {"x": ["n", 3, 16, 16]}, {"y": ["n", 3, 15, 15]}
    )
    (batch,) = synthetic(quiet_session(made.SerializeToString()), Hints(made), 16)
    assert batch.feeds["x"].mean() == pytest.approx(127.5, abs=1)
    assert batch.feeds["x"].std() == pytest.approx(128, rel=0.01)


@pytest.mark.parametrize(("side", "limit"), [(224, 5.0), (32, 1.5)])
@pytest.mark.slow
def test_256_images_are_made_in_seconds(side: int, limit: float) -> None:
    session = taking(x=["n", 3, side, side])
    start = time.process_time()
    assert sum(batch.size for batch in synthetic(session, count=256)) == 256
    assert time.process_time() - start < 2 * limit, "twice what is promised, as machines differ"
