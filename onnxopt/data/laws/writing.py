"""Images of lines of writing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxopt.data.laws.base import Array, At
from onnxopt.data.laws.leaves import dead_leaves

_HEIGHTS = (0.35, 0.75)
"""Of a sign, as shares of the image's shorter side."""
_WIDTHS, _GAPS = (0.35, 0.75), (0.05, 0.3)
"""Of a sign and of the space behind it, as shares of the sign's height."""
_STROKES = 4
"""Of a sign, at most."""
_THICKNESS = (0.07, 0.16)
"""Of a stroke, as a share of the sign's height."""
_SPACES = 0.15
"""Share of signs that are left out."""
_PAPER = (0.3, 1.0)
"""Share of a plain colour in what is behind the signs; the rest is an image of leaves."""


@dataclass(frozen=True, slots=True)
class Writing:
    """A line of made-up signs along the longer side, of a few straight and round strokes each.

    It is lighter or darker than what is behind it.

    A reader of lines takes any other image for one without signs, and then most of its classes are never used.
    """

    dtype: np.dtype[Any]
    axis: int
    """That of the channels."""
    scale: tuple[float, float] | None = (1.0, 0.0)
    """Factor and offset, of values of variance 1; None for pixels of 0..255."""
    kind: str = "images"

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        height, width = (side for i, side in enumerate(shape) if i not in (0, self.axis))
        pixels = np.stack([_line(rng, height, width, shape[self.axis]) for _ in range(shape[0])])
        pixels = pixels.transpose(0, 3, 1, 2) if self.axis == 1 else pixels
        if self.scale is None or self.dtype == np.uint8:
            return np.asarray(np.rint(pixels).astype(self.dtype))
        others = tuple(i for i in range(4) if i != self.axis)
        mean, std = pixels.mean(others, keepdims=True), pixels.std(others, keepdims=True)
        factor, offset = self.scale
        return np.asarray(((pixels - mean) * (factor / std) + offset).astype(self.dtype))


def _line(rng: np.random.Generator, height: int, width: int, channels: int) -> Array:
    """One image, float32 ``[height, width, channels]`` of 0..255."""
    ink = _ink(rng, height, width) if width >= height else _ink(rng, width, height).T
    paper, dark = rng.uniform(*_PAPER), rng.random() < 0.5
    light, deep = rng.uniform(170, 255, channels), rng.uniform(0, 85, channels)
    behind, colour = (light, deep) if dark else (deep, light)
    leaves = dead_leaves(1, height, width, channels, int(rng.integers(2**31)))[0]
    back = paper * behind + (1 - paper) * leaves
    return np.asarray(back + ink[:, :, None] * (colour - back), np.float32)


def _ink(rng: np.random.Generator, height: int, width: int) -> Array:
    """How much of each pixel a line of signs covers, ``[height, width]`` of 0..1; it runs along the second axis."""
    tall = height * rng.uniform(*_HEIGHTS)
    top, left, ink = (height - tall) * rng.uniform(0.2, 0.8), tall * rng.uniform(0, 0.5), np.zeros((height, width))
    thick = max(1.0, tall * rng.uniform(*_THICKNESS))
    while left < width:
        wide = tall * rng.uniform(*_WIDTHS)
        if rng.random() > _SPACES:
            for _ in range(rng.integers(1, _STROKES + 1)):
                _stroke(ink, _path(rng, wide, tall) + np.array([top, left]), thick)
        left += wide + tall * rng.uniform(*_GAPS)
    return ink


def _path(rng: np.random.Generator, wide: float, tall: float) -> Array:
    """Points of a stroke inside a sign, ``[points, 2]``: a line between two of nine places, or a part of an ellipse."""
    count = max(2, int(tall))
    along = np.linspace(0, 1, count)[:, None]
    places = rng.integers(0, 3, (2, 2)) / 2
    if rng.random() < 0.5:
        return np.asarray((places[0] + along * (places[1] - places[0])) * (tall, wide))
    begins, reach = rng.uniform(0, 2 * np.pi), rng.uniform(np.pi / 2, 2 * np.pi)
    round_ = np.concatenate([np.sin(begins + reach * along), np.cos(begins + reach * along)], 1)
    half = rng.choice([0.25, 0.5])
    return np.asarray((places[0] * (1 - 2 * half) + half * (1 + round_)) * (tall, wide))


def _stroke(ink: Array, path: Array, thick: float) -> None:
    """Covers what lies within half a thickness of the points, with soft edges, in place."""
    reach = thick / 2 + 1
    low = np.maximum(np.floor(path.min(0) - reach).astype(int), 0)
    high = np.minimum(np.ceil(path.max(0) + reach).astype(int) + 1, ink.shape)
    if (low >= high).any():
        return
    rows, columns = np.ogrid[low[0] : high[0], low[1] : high[1]]
    distance = np.full((high[0] - low[0], high[1] - low[1]), np.inf)
    for row, column in path:
        np.minimum(distance, np.hypot(rows - row, columns - column), out=distance)
    part = ink[low[0] : high[0], low[1] : high[1]]
    np.maximum(part, np.clip(thick / 2 + 0.5 - distance, 0, 1), out=part)
