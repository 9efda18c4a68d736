"""Stored arrays whose samples do not lie along the first axis of every input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feeding import taking

from onnxopt.data import Data, open_data
from onnxopt.errors import OnnxoptError

Shapes = dict[str, list[int | str | None]]


def stored(tmp_path: Path, inputs: Shapes, labels: int | None = None, **shapes: tuple[int, ...]) -> Data:
    """Arrays of these shapes as the data of a model with these inputs; every element is another number."""
    arrays: dict[str, Any] = {n: np.arange(np.prod(s), dtype=np.float32).reshape(s) for n, s in shapes.items()}
    if labels is not None:
        arrays["labels"] = np.arange(labels)
    np.savez(tmp_path / "d.npz", **arrays)
    return open_data(tmp_path / "d.npz", taking(**inputs))


def feeds(data: Data) -> list[dict[str, tuple[int, ...]]]:
    return [{name: array.shape for name, array in batch.feeds.items()} for batch in data]


@pytest.mark.parametrize(
    ("inputs", "labels", "shapes", "count", "first"),
    [
        pytest.param(
            {"state": [2, "batch", 8], "x": ["batch", 16], "rate": []}, None,
            {"state": (2, 40, 8), "x": (40, 16), "rate": ()}, 40,
            {"state": (2, 4, 8), "x": (4, 16), "rate": ()}, id="a state with the batch second"),
        pytest.param(
            {"state": [2, None, 8], "x": [None, 16]}, None, {"state": (2, 40, 8), "x": (40, 16)}, 40,
            {"state": (2, 4, 8), "x": (4, 16)}, id="without names"),
        pytest.param(
            {"x": ["seq", "batch", 3]}, None, {"x": (7, 40, 3)}, 40, {"x": (7, 4, 3)}, id="time first, named"),
        pytest.param(
            {"x": [None, None, 3]}, 40, {"x": (7, 40, 3)}, 40, {"x": (7, 4, 3)}, id="time first, by its labels"),
        pytest.param(
            {"x": ["seq", 1, 3]}, 40, {"x": (7, 40, 3)}, 40, {"x": (7, 1, 3)}, id="time first, a batch of one"),
        pytest.param(
            {"x": [1, 16], "state": [2, 1, 8]}, None, {"x": (40, 16), "state": (2, 40, 8)}, 40,
            {"x": (1, 16), "state": (2, 1, 8)}, id="a batch of one, states of each sample"),
        pytest.param(
            {"x": [1, 16], "state": [2, 1, 8]}, None, {"x": (40, 16), "state": (2, 1, 8)}, 40,
            {"x": (1, 16), "state": (2, 1, 8)}, id="a batch of one, the same state for all"),
        pytest.param(
            {"x": [8, 16], "state": [2, 8, 3]}, None, {"x": (40, 16), "state": (2, 40, 3)}, 40,
            {"x": (8, 16), "state": (2, 8, 3)}, id="a fixed batch"),
        pytest.param(
            {"x": ["n", 3], "anchors": [40, 4]}, None, {"x": (40, 3), "anchors": (40, 4)}, 40,
            {"x": (4, 3), "anchors": (40, 4)}, id="an input without a batch, by chance as long"),
        pytest.param(
            {"grid": ["k", 2], "x": ["batch", 3]}, None, {"grid": (9, 2), "x": (40, 3)}, 40,
            {"grid": (9, 2), "x": (4, 3)}, id="an input of any length without a batch"),
        pytest.param(
            {"image": [3, 8, 8]}, 40, {"image": (40, 3, 8, 8)}, 40, {"image": (3, 8, 8)}, id="no batch at all"),
        pytest.param(
            {"ids": ["batch", "seq"], "mask": ["batch*heads", "seq"]}, None, {"ids": (40, 9), "mask": (40, 9)}, 40,
            {"ids": (4, 9), "mask": (4, 9)}, id="a product of the batch"),
    ],
)  # fmt: skip
def test_the_axis_of_the_samples(
    tmp_path: Path, inputs: Shapes, labels: int | None, shapes: dict[str, Any], count: int, first: dict[str, Any]
) -> None:
    data = stored(tmp_path, inputs, labels, **shapes)
    assert data.count() == count
    assert feeds(data)[0] == first
    assert sum(batch.size for batch in data.take(9)) >= 9


def test_samples_stay_together(tmp_path: Path) -> None:
    data = stored(tmp_path, {"h": [2, "batch", 1], "x": ["batch", 1]}, 40, h=(2, 40, 1), x=(40, 1))
    for batch in data:
        assert batch.labels is not None
        assert batch.feeds["x"][:, 0].tolist() == batch.labels.tolist()
        assert batch.feeds["h"][0, :, 0].tolist() == batch.labels.tolist()
        assert batch.feeds["h"][1, :, 0].tolist() == (batch.labels + 40).tolist()


@pytest.mark.parametrize(
    ("inputs", "labels", "shapes"),
    [
        ({"x": ["n", 4]}, None, {"x": (9, 9)}),
        ({"x": ["n", 4]}, None, {"x": (4, 9)}),
        ({"x": ["n", 4]}, 5, {"x": (9, 5)}),
        ({"x": ["n", 1, 8, 8]}, None, {"x": (40, 3, 8, 8)}),
        ({"x": ["batch", 4], "state": [2, "batch", 8]}, None, {"x": (40, 4), "state": (2, 30, 8)}),
    ],
)
def test_arrays_of_another_shape_are_one_sentence(
    tmp_path: Path, inputs: Shapes, labels: int | None, shapes: dict[str, Any]
) -> None:
    with pytest.raises(OnnxoptError, match=r"d\.npz: ") as caught:
        stored(tmp_path, inputs, labels, **shapes)
    assert "\n" not in str(caught.value)


def test_a_function_gives_batches_along_any_axis() -> None:
    labelled = [(np.zeros((7, 5, 3), np.float32), np.arange(5))] * 2
    assert open_data(labelled, taking(x=["seq", "batch", 3])).count() == 10
    with pytest.raises(OnnxoptError, match="batch 1 gives 5 labels for 7 samples"):
        list(open_data(labelled, taking(x=["batch", "seq", 3])))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_named(tmp_path: Path, value: float) -> None:
    x, state = np.zeros((40, 4), np.float32), np.zeros((2, 40, 8), np.float32)
    state[1, 17, 3] = value
    np.savez(tmp_path / "d.npz", x=x, state=state)
    session = taking(x=["batch", 4], state=[2, "batch", 8])
    with pytest.raises(OnnxoptError, match=rf"d\.npz: input 'state' holds {value} in sample 17, expected finite"):
        open_data(tmp_path / "d.npz", session)
    batches = [{"x": x[:20], "state": state[:, :20]}, {"x": x, "state": state[:, :40]}]
    with pytest.raises(OnnxoptError, match=rf"batch 1: input 'state' holds {value} in sample 17"):
        list(open_data(batches, session))


def test_numbers_too_large_for_the_input(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.full((40, 4), 1e300))
    with pytest.raises(OnnxoptError, match="'x' is given numbers that do not fit into float32"):
        list(open_data(tmp_path / "d.npz", taking(x=["n", 4])))
