"""From what a user names to a stream of data."""

from __future__ import annotations

from typing import Any

import onnxruntime

from onnxopt.data.inputs import inputs_of
from onnxopt.data.preprocess import Hook, ImageOptions
from onnxopt.data.readers import Spec, path_of, readers
from onnxopt.data.stream import Data
from onnxopt.errors import OnnxoptError


def open_data(
    spec: Spec, session: onnxruntime.InferenceSession, options: ImageOptions | str | Hook | None = None, *more: Any
) -> Data:
    """Data for a model.

    Arguments:
        spec: a `.npz` or `.npy` file, a folder of images, or ``package.module:function``, which yields batches; or
            such a function itself, or an object that can be iterated over repeatedly.
        session: the model, whose inputs decide how the data is cast, batched and prepared.
        options: for images: an `ImageOptions`, or its fields in their order, `preprocess` first.
        more: the other fields.

    Raises OnnxoptError if there is no such data, or the model does not take it.
    """
    if isinstance(spec, Data):
        return spec
    options = options if isinstance(options, ImageOptions) else ImageOptions(options, *more)
    known = readers()
    reader = next((one for one in known if one.claims(spec)), None)
    if options.given and not (reader and reader.prepares):
        raise OnnxoptError(f"{spec}: only a folder of images is prepared; leave preprocess, mean, std, layout and size "
                           "out")  # fmt: skip
    if reader is None:
        path = path_of(spec)
        *others, last = (one.reads for one in known)
        raise OnnxoptError(f"{spec}: {'is no data' if path and path.exists() else 'no such file'}; expected "
                           f"{', '.join(others)}, or {last}")  # fmt: skip
    return reader.open(spec, inputs_of(session), options)
