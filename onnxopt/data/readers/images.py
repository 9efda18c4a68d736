"""Folders of images, decoded batch by batch."""

from __future__ import annotations

import warnings
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from onnxopt.data.folders import files_in, folder_labels, identity
from onnxopt.data.inputs import Input, only
from onnxopt.data.preprocess import Affine, Preparation, preparation
from onnxopt.data.random import Array
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, in_batches, sha256
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files import reading

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")
_BATCH = 16


class ImageReader(Reader):
    """Images at any depth of a folder; with labels if each lies in a class folder.

    Iterating raises OnnxoptError if an image cannot be read.
    """

    priority = 20
    reads = "a folder of images"
    takes = "images"

    def claims(self, spec: Spec) -> bool:
        """A folder."""
        path = path_of(spec)
        return path is not None and path.is_dir()

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`."""
        folder = Path(spec)
        entry = only(inputs, str(folder), "images are for one; yield batches from a function instead")
        return _open(folder, entry, preparation(str(folder), entry, options.images))


def _open(folder: Path, entry: Input, prepare: Preparation) -> Data:
    files = files_in(folder, SUFFIXES)
    reading(files)
    if len(files) < (entry.batch or 1):
        raise OnnxoptError(f"{folder}: has {len(files)} images ({', '.join(SUFFIXES)}), "
                           f"expected at least {entry.batch or 1}")  # fmt: skip
    labels = folder_labels([path.relative_to(folder) for path in files])

    def read(chosen: Array) -> Batch:
        samples = [_prepared(files[i], prepare) for i in chosen]
        if len({sample.shape for sample in samples}) > 1:
            raise OnnxoptError(f"{folder}: prepared, the images differ in shape; make them alike")
        return Batch({entry.name: np.stack(samples)}, None if labels is None else labels[chosen])

    def digest() -> str:
        first = _prepared(files[0], prepare)
        return sha256(repr(prepare).encode(), first.tobytes(), *(identity(path, folder) for path in files))

    pictures = isinstance(prepare, Affine) and prepare.channels > 1 and prepare.height == prepare.width
    stream = partial(in_batches, len(files), _BATCH, entry.batch, read)
    return Data(str(folder), stream, cache(digest), pictures=pictures)


def _prepared(path: Path, prepare: Preparation) -> Array:
    image = _decoded(path, prepare.mode)
    try:
        return prepare(image)
    except OnnxoptError as error:
        raise OnnxoptError(f"{error} ({path})") from error


def _decoded(path: Path, mode: str) -> Image.Image:
    """The image as a viewer shows it: upright, on white where it is transparent, its deeper greys scaled to 0..255."""
    try:
        # Decoders warn of what a viewer does not mind, such as damaged EXIF data.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            return _flat(_eight_bits(_upright(image))).convert(mode)
    except Exception as error:  # decoders raise various errors
        raise OnnxoptError(f"{path}: not an image that can be read: {first_line(error)}") from error


def _upright(image: Image.Image) -> Image.Image:
    """The image turned as its EXIF data says. Damaged EXIF data says nothing."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the parser raises various errors
        return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 16-bit greys, which Pillow would clip at 255, scaled to 8 bits."""
    if not image.mode.startswith("I"):
        return image
    greys = np.asarray(image).astype(np.int64)
    return Image.fromarray(np.clip((greys * 255 + 32767) // 65535, 0, 255).astype(np.uint8))


def _flat(image: Image.Image) -> Image.Image:
    """The image without transparency, in front of white."""
    if "transparency" not in image.info and not {"A", "a"} & set(image.getbands()):
        return image
    seen = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
