"""Labels that have a share in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp, weights
from commanding import refused, run

import onnxopt
from onnxopt import Contract
from onnxopt.graph.autodiff.gradient import Start
from onnxopt.tuning.loss import Loss


def test_the_gradient_is_that_of_the_cross_entropy() -> None:
    z, t, labels = weights(6, 5), weights(6, 5, seed=1), np.array([0, 4, 2, 2, 1, 3])
    start = Start("y", (6, 5), None)
    plain, with_labels = Loss(True), Loss(True, 0.3)
    for loss in (plain, with_labels):
        loss.learn([start], 6, [{"y": t}])
    power = float(np.square(t.astype(np.float64) - t.mean(1, keepdims=True)).sum())

    def distance(scores: np.ndarray) -> float:
        scores = scores.astype(np.float64)
        told = np.log(np.exp(scores).sum(1)) - scores[np.arange(6), labels]
        return 0.7 * plain.of(start, scores, t, 6)[0] + 0.3 * 2 * 5 * told.sum() / power

    found, gradient = with_labels.of(start, z, t, 6, labels)
    assert found == pytest.approx(distance(z), rel=1e-4)
    for index in range(30):
        ends = []
        for step in (-1e-2, 1e-2):
            other = z.astype(np.float64)
            other.flat[index] += step
            ends.append(distance(other))
        assert gradient.flat[index] == pytest.approx((ends[1] - ends[0]) / 2e-2, rel=1e-2, abs=1e-4)
    assert with_labels.of(start, z, t, 6)[0] == plain.of(start, z, t, 6)[0]


@pytest.mark.parametrize(
    "labels", [np.full((6, 2), 1), np.full(6, 5), np.full(6, -1), np.full(6, 0.5), np.zeros(5, int)]
)
def test_what_is_no_class_of_a_sample_is_not_taken(labels: np.ndarray) -> None:
    loss = Loss(True, 0.5)
    assert not loss.takes(Start("y", (6, 5), None), labels)
    assert loss.takes(Start("y", (6, 5), None), np.full((6, 1), 4))
    assert not loss.takes(Start("y", (6, 5, 2), None), np.full(6, 1))


def test_labels_teach_what_the_original_does_not_know(tmp_path: Path) -> None:
    onnx.save(mlp(16), tmp_path / "small.onnx")
    x = weights(1024, 16, seed=5)
    np.savez(tmp_path / "x.npz", x=x, labels=np.full(len(x), 3))
    right = []
    for share in (0.0, 1.0):
        onnxopt.optimize(tmp_path / "small.onnx", tmp_path / "out", Contract(target_ratio=4), tmp_path / "x.npz",
                         tune="20epochs", tune_labels=share, allow_miss=True)  # fmt: skip
        scores = onnxopt.load(tmp_path / "out").run(None, {"x": x})[0]
        right.append(float((scores.argmax(1) == 3).mean()))
    assert right[0] < 0.5
    assert right[1] > 0.9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tune-labels", 0.5], ["--tune-labels is their share in training", "--tune"]),
        (["--tune-labels", 1.5, "--tune", "1epochs"], ["--tune-labels is 1.5, expected a share from 0 to 1"]),
        (["--tune-labels", 0.5, "--tune", "1epochs", "--error", 0.1], ["--error", "--tune-labels", "one of them"]),
        (["--tune-labels", 0.5, "--tune", "1epochs"], ["--tune-labels needs a class for each sample", "no labels"]),
    ],
)
def test_impossible_shares_are_refused(tmp_path: Path, options: list[object], words: list[str]) -> None:
    onnx.save(mlp(16), tmp_path / "small.onnx")
    np.save(tmp_path / "x.npy", weights(64, 16, seed=5))
    refused(run("optimize", tmp_path / "small.onnx", "-o", tmp_path / "out.onnx", "--data", tmp_path / "x.npy",
                *options), *words)  # fmt: skip
    assert not (tmp_path / "out.onnx").exists()
