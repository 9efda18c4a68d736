"""The promise on real models and real data: how small, at what loss. Minutes, so marked slow.

Run with `pytest -m slow tests/test_realdata.py`; ONNXOPT_DATA names the folder of models and data.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import realdata
import table_models

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; see ONNXOPT_DATA"),
]

# Least ratio against the source file, most points lost. 1,000 photographs tell 0.1 point from the next, and 5 % of
# their predictions change: one standard deviation of their top-1 is 0.5 points. Hence the wider limit.
FLOORS = {
    "resnet20": (5.0, 0.3),
    "resnet32": (5.0, 0.3),
    "resnet56": (5.0, 0.3),
    "resnet56_dynamo": (5.0, 0.3),
    "lenet5": (6.0, 0.3),
    "resnet50v2_imagenette": (5.0, 0.3),
    "mobilefacenet": (4.0, 0.3),
    "squeezenet1.0": (4.0, 1.0),
    "squeezenet1.1": (4.0, 1.0),
    "mobilenet_v1_0.25": (4.0, 1.0),
    "mobilenet_v2": (4.0, 1.0),
}

MOST_OUTPUT_ERROR = 0.3


@pytest.mark.parametrize("model", FLOORS)
def test_small_enough_and_good_enough(model: str, tmp_path: Path) -> None:
    least_ratio, most_loss = FLOORS[model]
    row = table_models.measure(model, tmp_path)
    assert row.identical
    assert row.ratio >= least_ratio
    assert row.loss <= most_loss + 1e-9


@pytest.mark.parametrize("model", [m for m in table_models.MODELS if m not in FLOORS])
def test_other_models_are_never_larger_and_stay_close(model: str, tmp_path: Path) -> None:
    row = table_models.measure(model, tmp_path)
    assert row.identical
    assert row.bytes_after <= row.bytes_before
    assert row.error <= MOST_OUTPUT_ERROR
    assert row.loss <= 1.0
