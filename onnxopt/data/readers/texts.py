"""Files of texts, encoded batch by batch."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from onnxopt.data.inputs import Input
from onnxopt.data.random import Array
from onnxopt.data.readers.base import Options, Reader, Spec, path_of
from onnxopt.data.stream import Batch, Data, file_digest, in_batches, sha256
from onnxopt.data.texts import FORMATS, read_texts
from onnxopt.data.tokens import Encoder
from onnxopt.errors import OnnxoptError
from onnxopt.files import reading

_BATCH = 16


class TextReader(Reader):
    """Texts, for a model that takes token ids. The texts are held in memory, the ids are made batch by batch."""

    priority = 22
    reads = f"texts ({', '.join(FORMATS)})"
    takes = "tokenizer"

    def claims(self, spec: Spec) -> bool:
        """An existing file of one of these suffixes."""
        path = path_of(spec)
        return path is not None and path.suffix.lower() in FORMATS and path.is_file()

    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """See `Reader`. Raises OnnxoptError also without a tokenizer."""
        path = Path(spec)
        if options.tokenizer is None:
            raise OnnxoptError(f"{path}: texts need the model's tokenizer; give it with --tokenizer tokenizer.json")
        tokenizer = Path(options.tokenizer)
        reading([path, tokenizer])
        return _open(path, tokenizer, inputs)


def _open(path: Path, tokenizer: Path, inputs: list[Input]) -> Data:
    try:
        encode, found = Encoder(tokenizer, inputs, str(path)), read_texts(path)
    except OSError as error:
        raise OnnxoptError(f"{path}: cannot be read: {error.strerror or error}") from error
    count = len(found.texts)
    if count < (encode.fixed or 1):
        raise OnnxoptError(f"{path}: holds {count} texts, the model takes {encode.fixed} at once")

    def read(chosen: Array) -> Batch:
        feeds = encode([found.texts[i] for i in chosen])
        return Batch(feeds, None if found.labels is None else found.labels[chosen])

    def digest() -> str:
        return sha256(file_digest(path), file_digest(tokenizer), repr(encode).encode())

    lengths = cache(lambda: encode.lengths(found.texts))  # padding would count like tokens
    return Data(str(path), lambda: in_batches(count, _BATCH, encode.fixed, read, lengths()), cache(digest))
