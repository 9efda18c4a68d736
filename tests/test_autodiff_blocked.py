"""Convolutions in blocks give what others give: the values of the forward pass, and every gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from builders import weights
from differences import Array, build, node, opened, spread
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnxruntime import OrtValue

from onnxopt.graph import Gradient, without_defaults
from onnxopt.graph.autodiff import blocked
from onnxopt.graph.autodiff.gradient import Start

needs_blocks = pytest.mark.skipif(not blocked.block(), reason="the runtime has no kernels with blocks here")
SHAPE = (32, 16)
"""Outputs and inputs of the convolution."""


def passes(attributes: dict[str, Any], samples: int, size: int, opset: int = 17) -> tuple[Array, dict[str, Array]]:
    """Outputs and gradients of two convolutions whose weights are inputs."""
    kernel = attributes["kernel_shape"]
    tensors = {"first": weights(16, 3, 1, 1, seed=1), "w": weights(*SHAPE, *kernel, seed=2), "b": weights(32, seed=3)}
    model = build(
        [node("Conv", ["x", "first"], ["h"]), node("Conv", ["h", "w", "b"], ["y"], **attributes)],
        [samples, 3, size, 8], tensors, opset=opset,
    )  # fmt: skip
    model, found = opened(model, tensors), dict[str, Array]()
    gradient = Gradient(model, list(tensors))
    without_defaults(model, tensors)

    def cotangents(starts: Sequence[Start], values: Mapping[str, Array]) -> dict[str, Array]:
        found.update(values)
        return {start.name: spread(*start.shape) for start in starts}

    feeds = {"x": spread(samples, 3, size, 8), **tensors}
    given = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
    return found, gradient.pulled_back(given, cotangents)


pairs = st.lists(st.integers(1, 3), min_size=2, max_size=2)
padding = st.one_of(
    st.fixed_dictionaries({"pads": st.lists(st.integers(0, 2), min_size=4, max_size=4), "dilations": pairs}),
    st.fixed_dictionaries({"auto_pad": st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"])}),
)


@needs_blocks
@settings(max_examples=25)
@given(pairs, pairs, padding, st.integers(9, 34), st.integers(7, 9))
def test_any_convolution_in_blocks(
    kernel: list[int], strides: list[int], pads: dict[str, Any], samples: int, size: int
) -> None:
    attributes = {"kernel_shape": kernel, "strides": strides, **pads}
    with patch.object(blocked, "block", lambda: 0):
        wanted, slopes = passes(attributes, samples, size)
    assume(slopes)
    found, gradients = passes(attributes, samples, size)
    assert gradients.keys() == slopes.keys()
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-4, atol=1e-4)
    for path, slope in slopes.items():
        np.testing.assert_allclose(gradients[path], slope, rtol=1e-4, atol=1e-4 * np.abs(slope).max())


@needs_blocks
def test_models_of_old_opsets_have_blocks_too() -> None:
    attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    wanted, slopes = passes(attributes, 16, 8)
    found, gradients = passes(attributes, 16, 8, opset=9)
    np.testing.assert_allclose(found["y"], wanted["y"], rtol=1e-5, atol=1e-5)
    assert gradients.keys() == slopes.keys() == {"first", "w", "b"}


@needs_blocks
def test_only_whole_blocks_fit() -> None:
    assert blocked.fits((32, 16, 3, 3), 1)
    assert not blocked.fits((32, 12, 3, 3), 1)
    assert not blocked.fits((32, 16, 3, 3), 16)
    assert not blocked.fits((32, 16, 3), 1)
