"""From what a user names to a stream of data."""

from __future__ import annotations

import os
from typing import Any

import onnxruntime

from onnxopt.data.inputs import inputs_of
from onnxopt.data.preprocess import Hook, ImageOptions
from onnxopt.data.readers import Options, Reader, Spec, path_of, readers
from onnxopt.data.stream import Data
from onnxopt.errors import OnnxoptError


def open_data(
    spec: Spec,
    session: onnxruntime.InferenceSession,
    options: ImageOptions | str | Hook | None = None,
    *more: Any,
    tokenizer: str | os.PathLike[str] | None = None,
) -> Data:
    """Data for a model.

    Arguments:
        spec: a `.npz` or `.npy` file, a folder of images, a file of texts, or ``package.module:function``, which yields
            batches; or such a function itself, or an object that can be iterated over repeatedly.
        session: the model, whose inputs decide how the data is cast, batched and prepared.
        options: for images: an `ImageOptions`, or its fields in their order, `preprocess` first.
        more: the other fields.
        tokenizer: for texts: the path of a `tokenizer.json`.

    Raises OnnxoptError if there is no such data, or the model does not take it.
    """
    if isinstance(spec, Data):
        return spec
    images = options if isinstance(options, ImageOptions) else ImageOptions(options, *more)
    known = readers()
    reader = next((one for one in known if one.claims(spec)), None)
    if reader is None:
        path = path_of(spec)
        *others, last = (one.reads for one in known)
        raise OnnxoptError(f"{spec}: {'is no data' if path and path.exists() else 'no such file'}; expected "
                           f"{', '.join(others)}, or {last}")  # fmt: skip
    _check(spec, reader, images.given, tokenizer is not None)
    return reader.open(spec, inputs_of(session), Options(images, tokenizer))


def _check(spec: Spec, reader: Reader, images: bool, tokenizer: bool) -> None:
    """Raises OnnxoptError where options are given that are for another kind of data."""
    if images and reader.takes != "images":
        raise OnnxoptError(f"{spec}: only a folder of images is prepared; leave preprocess, mean, std, layout and size "
                           "out")  # fmt: skip
    if tokenizer and reader.takes != "tokenizer":
        raise OnnxoptError(f"{spec}: only texts are turned into token ids; leave the tokenizer out")
