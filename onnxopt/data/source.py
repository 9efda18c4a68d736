"""From what a user names to a stream of data."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import onnxruntime

from onnxopt.data.inputs import Input, inputs_of
from onnxopt.data.preprocess import Hook, ImageOptions
from onnxopt.data.readers import Options, Reader, Spec, path_of, readers
from onnxopt.data.stream import Data, Pending
from onnxopt.errors import OnnxoptError
from onnxopt.files import near

_MISPLACED = {
    "images": "only a folder of images is prepared; leave preprocess, mean, std, layout and size out",
    "tokenizer": "only texts are turned into token ids; leave the tokenizer out",
    "sample_rate": "only audio has a sample rate; leave it out",
}
"""By option for one kind of data, what to say where it is given for another."""


def open_data(
    spec: Spec,
    session: onnxruntime.InferenceSession,
    options: ImageOptions | str | Hook | None = None,
    *more: Any,
    tokenizer: str | os.PathLike[str] | None = None,
    sample_rate: int | None = None,
) -> Data:
    """Data for a model.

    Arguments:
        spec: a `.npz` or `.npy` file, a folder of images, a file of texts, audio, or ``package.module:function``, which
            yields batches; or such a function itself, or an object that can be iterated over repeatedly.
        session: the model, whose inputs decide how the data is cast, batched and prepared.
        options: for images: an `ImageOptions`, or its fields in their order, `preprocess` first.
        more: the other fields.
        tokenizer: for texts: the path of a `tokenizer.json`.
        sample_rate: for audio: samples a second that the model takes.

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
                           f"{', '.join(others)}, or {last}{'' if path is None else near(path)}")  # fmt: skip
    given = {"images": images.given, "tokenizer": tokenizer is not None, "sample_rate": sample_rate is not None}
    misplaced = next((name for name, is_given in given.items() if is_given and name != reader.takes), None)
    if misplaced:
        raise OnnxoptError(f"{spec}: {_MISPLACED[misplaced]}")
    place = _Place(reader, spec, inputs_of(session), Options(images, tokenizer, sample_rate))
    opened = place.data
    return replace(opened, pending=_Reading(place, opened.digest))


@dataclass(frozen=True)
class _Place:
    """Where data lies, and how it is opened."""

    reader: Reader
    spec: Any
    inputs: list[Input]
    options: Options

    @cached_property
    def data(self) -> Data:
        """The data. Raises as `Reader.open` does."""
        return self.reader.open(self.spec, self.inputs, self.options)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "data"}


class _Reading:
    """The batches of data that lies somewhere. In another process they are read there: only the place travels."""

    def __init__(self, place: _Place, digest: Callable[[], str]) -> None:
        self._place, self._digest = place, digest

    def __call__(self) -> Iterator[Pending]:
        return self._place.data.pending()

    def __reduce__(self) -> tuple[Any, ...]:
        return _elsewhere, (self._place, self._digest())


_opened: dict[str, _Reading] = {}
"""What another process sent here, by its digest: opened once."""
_MOST_OPENED = 2
"""That of the search, and that of the check."""


def _elsewhere(place: _Place, digest: str) -> _Reading:
    """The same data, opened in this process. Raises OnnxoptError if it is other data here."""
    if digest not in _opened:
        found = place.data.digest()
        if found != digest:
            raise OnnxoptError(f"{place.spec}: is other data here; a cluster's workers must find the same files under "
                               "the same paths")  # fmt: skip
        while len(_opened) >= _MOST_OPENED:
            del _opened[next(iter(_opened))]
        _opened[digest] = _Reading(place, lambda: digest)
    return _opened[digest]
