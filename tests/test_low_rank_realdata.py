"""Factors fitted to a layer's inputs against plain factors, on real layers and held-out images."""

from __future__ import annotations

import pytest

from common import realdata
from common.layer_error import errors, promises
from onnxopt.passes import Structural
from onnxopt.passes.low_rank.spatial import Spatial
from onnxopt.passes.low_rank.svd import Svd
from onnxopt.passes.low_rank.tucker import Tucker

pytestmark = pytest.mark.slow

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)


@needs_data
@pytest.mark.parametrize(
    ("model", "shape", "decisions", "most"),
    [
        ("lenet5", (50, 20, 5, 5), [Svd(8), Svd(20), Tucker(6, 15), Tucker(10, 25), Spatial(8), Spatial(20)], 0.8),
        ("lenet5", (500, 800), [Svd(8), Svd(32), Tucker(20, 60)], 0.7),
        ("resnet32", (16, 16, 3, 3), [Svd(3), Svd(8), Tucker(6, 6), Tucker(10, 10), Spatial(6), Spatial(12)], 0.97),
        ("resnet32", (64, 64, 3, 3), [Svd(16), Svd(32), Tucker(20, 20), Tucker(40, 40), Spatial(24)], 0.97),
    ],
)
def test_knowing_the_inputs_errs_less(
    model: str, shape: tuple[int, ...], decisions: list[Structural], most: float
) -> None:
    """Than with the plain factors, though the mean error of these is off the bias, too."""
    for decision, (_, plain, aware) in zip(decisions, errors(model, shape, decisions), strict=True):
        assert aware <= most * plain, decision


@needs_data
@pytest.mark.parametrize(
    ("model", "shape", "decisions"),
    [
        ("lenet5", (50, 20, 5, 5), [Svd(8), Svd(20), Tucker(6, 15), Tucker(10, 25), Spatial(8), Spatial(20)]),
        ("resnet32", (16, 16, 3, 3), [Svd(3), Svd(8), Tucker(6, 6), Tucker(10, 10), Spatial(6), Spatial(12)]),
        ("resnet32", (64, 64, 3, 3), [Svd(16), Svd(32), Tucker(20, 20), Tucker(40, 40), Spatial(24)]),
    ],
)
@pytest.mark.slow
def test_predictions_hold_on_other_images(model: str, shape: tuple[int, ...], decisions: list[Structural]) -> None:
    """Of convolutions, which meet many vectors an image; a fully connected layer meets one."""
    found = errors(model, shape, decisions)
    for decision, promised, (*_, measured) in zip(decisions, promises(model, shape, decisions), found, strict=True):
        assert promised is not None
        assert 0.9 * promised < measured < 1.15 * promised, decision
