"""Images changed at random: see `Augment`."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from onnxopt.encoding import Array
from onnxopt.search.blends import SHARE
from onnxopt.spec.augment import Augment

_MOVED = 8
"""The part of its sides by which an image is moved at most."""
_NOISE = 0.1
"""Of the images' standard deviation."""
_COLOURS = 4
"""Channels of an image, at most."""


def augmented(feeds: Mapping[str, Array], how: Collection[Augment], seed: tuple[int, ...]) -> dict[str, Array]:
    """The feeds with images changed at random; other inputs stay as they are."""
    generator = np.random.default_rng(seed)
    return {name: _changed(array, how, generator) if is_images(array) else array for name, array in feeds.items()}


def is_images(array: Array) -> bool:
    """Whether an input is a batch of images in floats, with the channels before or behind the two sides."""
    return array.ndim == 4 and array.dtype.kind == "f" and (_channels(array) is not None)


def _channels(array: Array) -> int | None:
    return next((axis for axis in (1, 3) if array.shape[axis] <= _COLOURS), None)


def _changed(images: Array, how: Collection[Augment], generator: np.random.Generator) -> Array:
    """With the axes of height and width last while it is changed."""
    channels = _channels(images)
    found = images if channels == 1 else images.transpose(0, 3, 1, 2)
    if Augment.FLIP in how:
        turned = generator.random(len(found)) < 0.5
        found = np.where(turned[:, None, None, None], found[..., ::-1], found)
    if Augment.CROP in how:
        found = _moved(found, generator)
    if Augment.NOISE in how:
        found = found + generator.normal(0, _NOISE * float(found.std()), found.shape)
    if Augment.BLEND in how:
        share = np.where(generator.random(len(found)) < 0.5, SHARE, 0)[:, None, None, None]
        found = (1 - share) * found + share * np.roll(found, 1, 0)
    found = found.astype(images.dtype, copy=False)
    return np.ascontiguousarray(found if channels == 1 else found.transpose(0, 2, 3, 1))


def _moved(images: Array, generator: np.random.Generator) -> Array:
    height, width = images.shape[2:]
    down, right = (side // _MOVED for side in (height, width))
    padded = np.pad(images, ((0, 0), (0, 0), (down, down), (right, right)), "edge")
    tops, lefts = (generator.integers(0, 2 * most + 1, len(images)) for most in (down, right))
    rows, columns = tops[:, None] + np.arange(height), lefts[:, None] + np.arange(width)
    return np.asarray(padded[np.arange(len(images))[:, None, None], :, rows[:, :, None], columns[:, None, :]]
                      .transpose(0, 3, 1, 2))  # fmt: skip
