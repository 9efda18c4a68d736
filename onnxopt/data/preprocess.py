"""How an image becomes a model's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Protocol

import numpy as np
from PIL import Image

from onnxopt.data.hooks import blamed, is_hook, load_hook, name_of
from onnxopt.data.inputs import Input, known
from onnxopt.data.random import Array
from onnxopt.errors import OnnxoptError, meant

Hook = Callable[[Image.Image], Any]

PRESETS: dict[str, tuple[tuple[float, ...], tuple[float, ...], bool]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), False),
    "caffe": ((104.0, 117.0, 123.0), (1.0,), True),
    "tensorflow": ((127.5,), (127.5,), False),
    "unit": ((0.0,), (255.0,), False),
    "raw": ((0.0,), (1.0,), False),
}
"""Mean and standard deviation of pixels in 0..255, one for all channels or one for each, and whether blue is first."""

_CHANNELS = {"NCHW": 1, "NHWC": 3}
"""Axis of the channels."""
_CROP = 224 / 256
"""Share of the shorter side that the centre crop keeps, as is usual when evaluating on ImageNet."""


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How pixels become a model's input; None leaves an option to the model's input and the other options."""

    preprocess: str | Hook | None = None
    """One of `PRESETS`, or a function (or its name) that makes one sample of an image."""
    mean: Sequence[float] | None = None
    """Instead of a preset: of pixels in 0..1, for each channel or for all."""
    std: Sequence[float] | None = None
    """Likewise; pixels become ``(pixel / 255 - mean) / std``."""
    layout: str | None = None
    """"NCHW" or "NHWC"."""
    size: int | tuple[int, int] | None = None
    """The side, or (height, width)."""

    @property
    def given(self) -> bool:
        """Whether any option is set."""
        return any(option is not None for option in (self.preprocess, self.mean, self.std, self.layout, self.size))


class Preparation(Protocol):
    """Makes one sample of an image; two of the same `repr` do the same."""

    @property
    def mode(self) -> str:
        """The image mode that it expects: "RGB", or "L" for grey."""

    def __call__(self, image: Image.Image) -> Array:
        """One sample, without a batch dimension."""


@dataclass(frozen=True, slots=True)
class Affine:
    """``(pixels - mean) / std`` of the centre of the image.

    An image of the model's size is taken whole. Of any other, the shorter side is scaled to 256/224 of that size and
    the centre is cropped.
    """

    height: int
    width: int
    channels: int
    layout: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    blue_first: bool
    dtype: str

    @property
    def mode(self) -> str:
        """See `Preparation`."""
        return "L" if self.channels == 1 else "RGB"

    def __call__(self, image: Image.Image) -> Array:
        """[channels, height, width] or [height, width, channels], by layout."""
        cropped = np.asarray(_cropped(image, self.height, self.width))
        pixels: Array = cropped.reshape(self.height, self.width, self.channels)
        if self.dtype != "uint8":
            mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            pixels = (((pixels[:, :, ::-1] if self.blue_first else pixels) - mean) / std).astype(self.dtype)
        return pixels.transpose(2, 0, 1) if self.layout == "NCHW" else pixels


@dataclass(frozen=True, slots=True)
class Custom:
    """A user's function that makes a sample of an image."""

    name: str
    function: Hook = field(repr=False)
    entry: Input

    @property
    def mode(self) -> str:
        """See `Preparation`."""
        return "L" if len(self.entry.shape) == 4 and 1 in (self.entry.shape[1], self.entry.shape[3]) else "RGB"

    def __call__(self, image: Image.Image) -> Array:
        """The function's array. Raises OnnxoptError if it is not one sample of the input."""
        with blamed(self.name):
            sample = np.asarray(self.function(image))
        self.entry.check(sample[None], self.name, samples=True)
        self.entry.check_finite(sample, self.name, None)
        return self.entry.cast(sample, self.name)


def preparation(source: str, entry: Input, options: ImageOptions) -> Preparation:
    """How images become samples of the input `entry`.

    Arguments:
        source: where the images are from, for messages.

    Raises OnnxoptError if neither the options nor the input's type and shape say what to do.
    """
    preprocess = options.preprocess
    if callable(preprocess):
        return Custom(name_of(preprocess), preprocess, entry)
    if preprocess is not None and is_hook(preprocess):
        return Custom(preprocess, load_hook(preprocess), entry)
    layout, channels, sides = _geometry(source, entry, options)
    means, stds, blue_first = _scale(source, entry, channels, preprocess, options)
    return Affine(*sides, channels, layout, means, stds, blue_first, str(entry.dtype))


def _scale(
    source: str, entry: Input, channels: int, preset: str | None, options: ImageOptions
) -> tuple[tuple[float, ...], tuple[float, ...], bool]:
    """Mean and standard deviation of pixels in 0..255, and whether blue comes first."""
    mean, std = options.mean, options.std
    stated = mean is not None or std is not None
    if entry.dtype == np.uint8:
        if stated or preset not in (None, "raw"):
            raise OnnxoptError(f"{source}: input {entry.name!r} is uint8 and takes pixels as they are; "
                               "leave --preprocess, --mean and --std out")  # fmt: skip
        return PRESETS["raw"]
    if entry.dtype is None or entry.dtype.kind != "f":
        raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}, images become floats or uint8; "
                           "--preprocess mypackage.mymodule:function makes the input of an image")  # fmt: skip
    if (preset is None) is not stated or (preset is not None and preset not in PRESETS):
        raise OnnxoptError(f"{source}: say how pixels become the model's input: --preprocess with one of "
                           f"{', '.join(PRESETS)} or mypackage.mymodule:function; or --mean and --std"
                           f"{'' if preset is None else meant(preset, PRESETS)}")  # fmt: skip
    if preset is not None:
        means, stds, blue_first = PRESETS[preset]
    else:
        means, stds = (tuple(255 * x for x in values) for values in (mean or (0.0,), std or (1.0,)))
        blue_first = False
    if {len(means), len(stds)} - {1, channels} or not all(map(isfinite, (*means, *stds))) or min(stds) <= 0:
        raise OnnxoptError(f"{source}: mean and standard deviation {preset or ''} are {means} and {stds} of 255, "
                           f"expected 1 or {channels} numbers, and deviations of more than 0")  # fmt: skip
    return means, stds, blue_first


def _geometry(source: str, entry: Input, options: ImageOptions) -> tuple[str, int, tuple[int, int]]:
    """Layout, channels, and height and width of the model's input, from its shape and the options."""
    shape, layout, size = entry.shape, options.layout, options.size
    if len(shape) != 4:
        raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}, images are for inputs of four dimensions; "
                           "--preprocess mypackage.mymodule:function makes the input of an image")  # fmt: skip
    layout = layout.upper() if layout else next((n for n, axis in _CHANNELS.items() if shape[axis] in (1, 3)), None)
    if layout not in _CHANNELS:
        raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}; say whether its layout is NCHW or NHWC")
    axis = _CHANNELS[layout]
    stated = shape[axis]
    channels = stated if isinstance(stated, int) and known(stated) else 3
    if channels not in (1, 3):
        raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}, in {layout} that is {channels} channels; "
                           "images have 1 or 3")  # fmt: skip
    own = shape[2:] if layout == "NCHW" else shape[1:3]
    asked = (size, size) if isinstance(size, int) else size or own
    sides = [a if isinstance(a, int) and known(a) else None for a in asked]
    height, width = sides
    if height is None or width is None or any(known(a) and a != b for a, b in zip(own, sides, strict=True)):
        raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}; its images cannot be of size "
                           f"{' x '.join(map(str, sides))}, --size gives another")  # fmt: skip
    return layout, channels, (height, width)


def _cropped(image: Image.Image, height: int, width: int) -> Image.Image:
    if image.size == (width, height):
        return image
    scale = max(round(height / _CROP) / image.height, round(width / _CROP) / image.width)
    sides = (int(image.width * scale + 1e-6), int(image.height * scale + 1e-6))
    image = image.resize(sides, Image.Resampling.BILINEAR) if sides != image.size else image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
