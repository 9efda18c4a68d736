"""The promise on real models and real data: how small, at what loss. Minutes, so mostly marked slow.

Run with `pytest -m slow tests/test_realdata.py`; ONNXOPT_DATA names the folder of models and data.
"""

from __future__ import annotations

import numpy as np
import pytest

from common import realdata, runs
from common.kept import fresh
from onnxopt import Contract
from onnxopt.spec.contract import SYNTHETIC_ERROR
from onnxopt.spec.effort import Effort
from tables import models

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)

FLOORS = {
    "resnet20": (91.30, 5.0, 0.5),
    "resnet56_dynamo": (94.50, 5.0, 0.5),
    "lenet5": (98.94, 6.0, 0.3),
    "mobilenet_v1_0.25": (47.75, 4.0, 2.0),
}
"""The original's metric in percent on these images, the least ratio against the source file, the most points lost.

The limits leave room for chance: of 400 photographs some 5 % of the answers change, as many for the better as for the
worse but for a standard deviation of sqrt(20) = 4.5 answers, 1.1 points.
"""

DOCUMENTED = {
    "resnet32", "resnet56", "resnet50v2_imagenette", "squeezenet1.0", "squeezenet1.1", "mobilenet_v2", "mobilefacenet",
    "super_resolution", "ppocr_det",
}  # fmt: skip
"""Models that take long; docs/models.md measures them."""

SOME = 2500
"""Test images of the contracts."""
IMAGES = {
    "resnet20": 1000,
    "resnet56_dynamo": 1000,
    "mobilenet_v1_0.25": 400,
    "mobilenet_v2_int8_tflite": 400,
}
"""Test images where fewer than all have to do. The documents measure on all of them: README has the figures."""

FAST = {
    "magika",
    "resnet56_dynamo",
    "mobilenet_v2_int8_tflite",
}
"""Models that take a minute or more with the default effort, which the documents measure."""

MOST_OUTPUT_ERROR = 0.15
"""Of a model without labels on sensible inputs; the default is kept on synthetic ones."""


def effort_for(model: str) -> Effort:
    return Effort.FAST if model in FAST else Effort.DEFAULT


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("model", FLOORS)
def test_small_enough_and_good_enough(model: str) -> None:
    original, least_ratio, most_loss = FLOORS[model]
    row = models.row(model, IMAGES.get(model), effort_for(model))
    assert row.metric_before == pytest.approx(original, abs=0.06)
    assert row.identical
    assert row.noise is not None
    assert row.noise <= SYNTHETIC_ERROR
    assert row.ratio >= least_ratio
    assert row.loss <= most_loss + 1e-9


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [m for m in realdata.SHARED if m not in FLOORS and m not in DOCUMENTED],
)
def test_other_models_are_never_larger_and_stay_close(model: str) -> None:
    row = models.row(model, IMAGES.get(model), effort_for(model))
    assert row.identical
    if row.noise is None:  # no output shows noise on synthetic inputs
        assert row.error == 0
    else:
        assert row.noise <= SYNTHETIC_ERROR
    assert row.bytes_after <= row.bytes_before
    assert row.error <= MOST_OUTPUT_ERROR
    assert row.loss <= 1.0 + 1e-9


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("model", "ratio", "most_loss"), [("lenet5", 20, 0.2), ("resnet20", 9, 0.3)])
def test_a_ratio_on_training_images_costs_little_on_the_test_part(model: str, ratio: float, most_loss: float) -> None:
    run = fresh(runs.optimize, model, Contract(target_ratio=ratio), 4000, SOME)
    assert not run.refused
    assert ratio <= run.ratio <= ratio / 0.98
    assert run.metric is not None
    assert runs.original(model, SOME) - run.metric <= most_loss + 1e-9


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize(("model", "most_drop", "least_ratio"), [("lenet5", 0.2, 10)])
def test_a_drop_is_kept_on_the_test_part(model: str, most_drop: float, least_ratio: float) -> None:
    """On as few images as these, a drop has a standard error: that of the square root of so many other answers."""
    run = fresh(runs.optimize, model, Contract(max_drop=most_drop), 2000, SOME)
    assert not run.refused
    assert run.metric is not None
    error = 100 * (2 * most_drop / 100 / SOME) ** 0.5
    assert runs.original(model, SOME) - run.metric <= most_drop + 2 * error
    assert run.ratio >= least_ratio


def test_faces_are_told_by_a_threshold_from_the_other_folds() -> None:
    same = np.arange(30) % 2 == 0
    assert realdata.verification_accuracy(np.where(same, 0.8, 0.2), same) == 100
    misleading = np.where(same, 0.8, 0.2)
    misleading[20:] += 0.7  # the third fold's pairs all look alike under the others' threshold
    assert realdata.verification_accuracy(misleading, same) < 90


def test_a_row_has_sizes_ratios_and_scores() -> None:
    row = models.Row("lenet5", 1_725_618, 863_456, 172_562, True, 0.04, 0.01, 98.94, 98.93)
    assert "| lenet5 | MNIST | 1.73 | 0.17 | 10.00x | 5.00x | 98.94 | 98.93 |" in models.render([row])
