"""Synthetic inputs, which resemble what a model was trained on more than noise does."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, partial

import numpy as np
import onnxruntime

from onnxopt.data.inputs import inputs_of, known
from onnxopt.data.random import SIZES, Array, random_feeds, runnable_sizes, unknown_dimensions
from onnxopt.data.stream import Batch, Data, Pending, sha256

_BATCH = 16
_LEAST_SIDE = 8
_IMAGE_TYPES = ("float32", "float16", "float64", "uint8")
_IMAGE_SIZES = (224, 32, 512, 640, 1)
"""Candidates for the unknown dimensions of an image input, the likeliest first."""
_COVERS = 2.0
"""Total area of an image's leaves over the area of the image."""


def synthetic(
    session: onnxruntime.InferenceSession, scale: dict[str, tuple[float, float]] | None = None, count: int = 256
) -> Data:
    """Synthetic data for a model: dead leaves for image inputs (see `dead_leaves`), noise for others.

    An input counts as an image if it is float or uint8, has four dimensions with 1 or 3 channels (NCHW or NHWC), and
    sides of at least 8. Floats have mean 0 and variance 1 in each channel, uint8 are pixels. Equal arguments give equal
    data.

    Arguments:
        scale: by input, the factor and offset applied to its values (see `input_scale`).
        count: samples; rounded up to whole batches.

    Raises CannotRun if the model runs with no candidate for its unknown dimensions.
    """
    inputs = inputs_of(session)
    maybe_images = [e for e in inputs if str(e.dtype) in _IMAGE_TYPES and _channel_axis(e.shape)]
    sizes = _many(session, runnable_sizes(session, scale, _IMAGE_SIZES if maybe_images else SIZES))
    shapes = {name: array.shape for name, array in random_feeds(session, sizes, 0).items()}
    size = Batch({name: np.empty(shape, bool) for name, shape in shapes.items()}, None).size
    batches = -(-count // size)
    images = {entry.name: entry.dtype for entry in maybe_images if _channel_axis(shapes[entry.name])}

    @cache
    def drawn(name: str) -> tuple[Array, Array, Array]:
        """uint8 images in the input's layout, and their mean and standard deviation by channel."""
        axis = _channel_axis(shapes[name]) or 1
        height, width = (side for i, side in enumerate(shapes[name]) if i not in (0, axis))
        pixels = dead_leaves(batches * shapes[name][0], height, width, shapes[name][axis])
        pixels = pixels.transpose(0, 3, 1, 2) if axis == 1 else pixels
        others = tuple(i for i in range(4) if i != axis)
        mean, std = pixels.mean(others, keepdims=True), pixels.std(others, keepdims=True)
        return pixels, mean.astype(np.float32), std.astype(np.float32)

    def read(index: int) -> Batch:
        feeds = random_feeds(session, sizes, index, scale, without=images)
        for name, dtype in images.items():
            pixels, mean, std = drawn(name)
            length = shapes[name][0]
            part = pixels[index * length : (index + 1) * length]
            factor, offset = (scale or {}).get(name, (1.0, 0.0))
            feeds[name] = part if dtype == np.uint8 else ((part - mean) * (factor / std) + offset).astype(dtype)
        return Batch(feeds, None)

    def pending() -> Iterator[Pending]:
        return (Pending(size, partial(read, index)) for index in range(batches))

    kind = "made-up images" if images else "noise"  # as it is in the digests that plans hold
    digest = cache(lambda: sha256(repr((kind, sorted(shapes.items()), scale, batches)).encode()))
    return Data("synthetic images" if images else "noise", pending, digest)


def dead_leaves(count: int, height: int, width: int, channels: int) -> Array:
    """Images of discs and rectangles that occlude each other, uint8 [count, height, width, channels].

    Radii have density r^-3, which gives the edge statistics and the power spectrum of natural images (A. Lee,
    D. Mumford, J. Huang: Occlusion models for natural images, 2001); filters that networks learn from such images suit
    photographs (M. Baradad et al.: Learning to see by looking at noise, 2021). Each leaf has its own brightness, a
    little colour and a texture, each image a colour cast; edges are soft, and there is a little noise. Each of these
    brings second moments of activations nearer to those on photographs.
    """
    rng = np.random.default_rng(0)
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


def _channel_axis(shape: tuple[int | str | None, ...]) -> int | None:
    """Axis of the channels, 1 or 3, if a value of this shape may be images; else None."""
    if len(shape) != 4:
        return None
    for axis, sides in ((1, shape[2:]), (3, shape[1:3])):
        if shape[axis] in (1, 3) and all(not isinstance(s, int) or not known(s) or s >= _LEAST_SIDE for s in sides):
            return axis
    return None


def _many(session: onnxruntime.InferenceSession, sizes: dict[object, int]) -> dict[object, int]:
    """The sizes, with a larger batch if its dimension is unknown and the model runs with it."""
    larger = {**sizes, **{key: _BATCH for _, axis, key in unknown_dimensions(session) if axis == 0}}
    try:
        outputs = session.run(None, random_feeds(session, larger, 0))
    except Exception:  # the dimension is not free after all
        return sizes
    return larger if all(len(o) == _BATCH for o in outputs if isinstance(o, np.ndarray) and o.ndim) else sizes


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
