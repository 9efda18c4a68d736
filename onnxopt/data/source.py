"""From what a user names to a stream of data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt.data.arrays import open_arrays
from onnxopt.data.hooks import is_hook, load_hook, name_of, open_hook
from onnxopt.data.images import open_images
from onnxopt.data.inputs import inputs_of, only
from onnxopt.data.preprocess import Hook, preparation
from onnxopt.data.stream import Data
from onnxopt.errors import OnnxoptError

Spec = str | os.PathLike[str] | Callable[[], Iterable[Any]] | Iterable[Any]


def open_data(
    spec: Spec,
    session: onnxruntime.InferenceSession,
    preprocess: str | Hook | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    layout: str | None = None,
    size: int | tuple[int, int] | None = None,
) -> Data:
    """Data for a model.

    Arguments:
        spec: a `.npz` or `.npy` file, a folder of images, or ``package.module:function``, which yields batches; or
            such a function itself, or something that can be iterated over again and again.
        session: the model; what it takes decides how the data is cast, cut into batches and prepared.
        preprocess: for images, one of `PRESETS`, or a function (or its name) that makes of an image one sample.
        mean: for images instead of a preset, of pixels in 0..1, for each channel or for all.
        std: likewise; pixels become ``(pixel / 255 - mean) / std``.
        layout: for images, "NCHW" or "NHWC", where the model's input does not tell.
        size: for images, the side or (height, width), where the model's input does not tell.

    Raises OnnxoptError where there is no such data, or the model does not take it.
    """
    if isinstance(spec, Data):
        return spec
    inputs = inputs_of(session)
    path = Path(spec) if isinstance(spec, str | os.PathLike) else None
    if path is not None and path.is_dir():
        entry = only(inputs, str(path), "images are for one; yield batches from a function instead")
        prepare = preparation(str(path), entry, preprocess, mean, std, layout, size)
        return open_images(path, entry, prepare)
    if any(option is not None for option in (preprocess, mean, std, layout, size)):
        raise OnnxoptError(f"{spec}: only a folder of images is prepared; leave preprocess, mean, std, layout and size "
                           "out")  # fmt: skip
    if path is None:
        return open_hook(_restartable(spec), name_of(spec), inputs)
    if path.suffix.lower() in (".npz", ".npy") and path.is_file():
        return open_arrays(path, inputs)
    if not path.exists() and is_hook(str(spec)):
        return open_hook(load_hook(str(spec)), str(spec), inputs)
    raise OnnxoptError(f"{spec}: {'is no data' if path.exists() else 'no such file'}; expected a .npz or .npy file, "
                       "a folder of images, or a function as in mypackage.mydata:batches")  # fmt: skip


def _restartable(spec: Any) -> Callable[[], Iterable[Any]]:
    if callable(spec):
        return spec  # type: ignore[no-any-return]
    if isinstance(spec, Iterator) or not isinstance(spec, Iterable):
        raise OnnxoptError(f"the data is a {type(spec).__name__}, which can be read only once; give the function "
                           "that makes it")  # fmt: skip
    return lambda: spec
