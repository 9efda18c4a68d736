"""Images of overlapping shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from onnxopt.data.laws.base import Array, At

_COVERS = 2.0
"""Total area of an image's leaves over the area of the image."""


@dataclass(eq=False)
class Leaves:
    """`dead_leaves` in an input's layout: floats of mean 0 and variance 1 in each channel, then scaled; or pixels.

    All images are drawn at once, as the mean and the variance are theirs together; batches are parts of them.
    """

    dtype: np.dtype[Any]
    count: int
    """Samples of all batches."""
    shape: tuple[int, ...]
    """Of a batch."""
    axis: int
    """That of the channels."""
    scale: tuple[float, float] | None = (1.0, 0.0)
    """Factor and offset; None for pixels of 0..255."""
    kind: str = field(default="images", init=False)

    @cached_property
    def _drawn(self) -> tuple[Array, Array, Array]:
        """uint8 images in the input's layout, and their mean and standard deviation by channel."""
        height, width = (side for i, side in enumerate(self.shape) if i not in (0, self.axis))
        pixels = dead_leaves(self.count, height, width, self.shape[self.axis])
        pixels = pixels.transpose(0, 3, 1, 2) if self.axis == 1 else pixels
        others = tuple(i for i in range(4) if i != self.axis)
        mean, std = pixels.mean(others, keepdims=True), pixels.std(others, keepdims=True)
        return pixels, mean.astype(np.float32), std.astype(np.float32)

    def draw(self, rng: np.random.Generator, shape: tuple[int, ...], at: At) -> Array:
        """See `Law`."""
        pixels, mean, std = self._drawn
        part = pixels[at.index * self.shape[0] : (at.index + 1) * self.shape[0]]
        if self.scale is None or self.dtype == np.uint8:
            return np.asarray(part.astype(self.dtype))
        factor, offset = self.scale
        return np.asarray(((part - mean) * (factor / std) + offset).astype(self.dtype))


def dead_leaves(count: int, height: int, width: int, channels: int, seed: int = 0) -> Array:
    """Images of discs and rectangles that occlude each other, uint8 [count, height, width, channels].

    Radii have density r^-3, which gives the edge statistics and the power spectrum of natural images (A. Lee,
    D. Mumford, J. Huang: Occlusion models for natural images, 2001); filters that networks learn from such images suit
    photographs (M. Baradad et al.: Learning to see by looking at noise, 2021). Each leaf has its own brightness, a
    little colour and a texture, each image a colour cast; edges are soft, and there is a little noise. Each of these
    brings second moments of activations nearer to those on photographs.
    """
    rng = np.random.default_rng(seed)
    side = min(height, width)
    least, most = max(1.0, side / 16), side / 2
    # Density r^-3 between least and most, by inversion. The mean of r^2 is 2 ln(most / least) / (least^-2 - most^-2).
    mean_square = 2 * np.log(most / least) / (least**-2 - most**-2)
    leaves = int(np.ceil(_COVERS * height * width / (np.pi * mean_square)))
    discs = [_disc(radius) for radius in range(int(most) + 1)]
    images = np.empty((count, height, width, channels), np.uint8)
    for image in images:
        radius = (least**-2 - rng.random(leaves) * (least**-2 - most**-2)) ** -0.5
        rows, columns = rng.integers(0, height, leaves), rng.integers(0, width, leaves)
        flat = rng.random(leaves) < 0.5
        stretch = np.exp(rng.uniform(-0.7, 0.7, leaves))
        owner = np.zeros((height, width), np.intp)  # 0 is the background
        todo = zip(
            range(1, leaves + 1), rows.tolist(), columns.tolist(), radius.tolist(), flat.tolist(), stretch.tolist(),
            strict=True,
        )  # fmt: skip
        for leaf, row, column, r, rectangle, ratio in todo:
            if rectangle:
                a, b = int(r * ratio), int(r / ratio)
                owner[max(row - a, 0) : row + a + 1, max(column - b, 0) : column + b + 1] = leaf
            else:
                a = int(r)
                top, left = max(row - a, 0), max(column - a, 0)
                area = owner[top : row + a + 1, left : column + a + 1]
                mask = discs[a][top - row + a :, left - column + a :][: area.shape[0], : area.shape[1]]
                area[mask] = leaf
        colour = _colours(rng, leaves + 1, channels)
        texture = np.abs(rng.normal(0, 40, leaves + 1)).astype(np.float32)
        grain = texture[owner] * rng.standard_normal((height, width), np.float32)
        noise = 4 * rng.standard_normal((height, width, channels), np.float32)
        image[:] = np.clip(_blurred(colour[owner] + grain[:, :, None]) + noise, 0, 255)
    return images


def _disc(radius: int) -> Array:
    """Mask [2 radius + 1, 2 radius + 1]."""
    axis = np.arange(-radius, radius + 1)
    return np.asarray(axis**2 + axis[:, None] ** 2 <= (radius + 0.5) ** 2)


def _colours(rng: np.random.Generator, count: int, channels: int) -> Array:
    """[count, channels] for pixels of 0..255: they vary much in brightness, little in colour, and share a cast."""
    cast = rng.normal(120, 40) + rng.normal(0, 15, channels)
    return (cast + rng.normal(0, 50, (count, 1)) + rng.normal(0, 15, (count, channels))).astype(np.float32)


def _blurred(image: Array) -> Array:
    """[height, width, channels] filtered by (1, 2, 1) / 4 in both directions, as a lens softens edges."""
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)), mode="edge")
    rows = 0.25 * padded[:-2] + 0.5 * padded[1:-1] + 0.25 * padded[2:]
    return np.asarray(0.25 * rows[:, :-2] + 0.5 * rows[:, 1:-1] + 0.25 * rows[:, 2:])
