"""How texts become the inputs of a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from onnxopt.data.inputs import Input, known
from onnxopt.data.optional import optional
from onnxopt.data.random import Array
from onnxopt.errors import OnnxoptError, first_line

_INSTEAD = "yield batches from a function instead"
_ENDLESS = 1e9
"""Tokenizers without a limit state a longer one than this."""
_BLOCK = 1024
"""Texts that are encoded together to count their tokens."""
_PADS = ("[PAD]", "<pad>", "<|pad|>")
"""Names of the padding token, where the tokenizer does not say how to pad."""


class Part(StrEnum):
    """What an input of a text model holds, `[samples, tokens]` each."""

    IDS = "ids"
    MASK = "mask"
    """1 for tokens, 0 for padding."""
    TYPES = "types"
    """Which of two texts a token belongs to."""
    POSITIONS = "positions"


def parts_of(inputs: Mapping[str, np.dtype[Any] | None]) -> dict[Part, str]:
    """By part, the input that holds it, by name and type; without ids where no single input can hold them.

    Arguments:
        inputs: by name, the type.
    """
    found, left = dict[Part, str](), list[str]()
    for name, dtype in inputs.items():
        part = _named(name.lower())
        if part and part not in found:
            found[part] = name
        elif dtype is not None and dtype.kind in "iu":
            left.append(name)
    named = [name for name in left if "input_ids" in name.lower()]
    ids = named if len(named) == 1 else left
    return {**found, Part.IDS: ids[0]} if len(ids) == 1 else found


def _named(name: str) -> Part | None:
    """The part that a name tells, but for ids, whose inputs have any name."""
    if "mask" in name:
        return Part.MASK
    if "type" in name or "segment" in name:
        return Part.TYPES
    return Part.POSITIONS if "position" in name or "pos_id" in name else None


class Encoder:
    """Makes the inputs of a model from texts.

    A text is cut at the least of what the tokenizer says, what a `tokenizer_config.json` beside it says, and the
    model's own length. A batch is padded to its longest text, or to the model's own length.

    Arguments:
        tokenizer: a `tokenizer.json` of Hugging Face's tokenizers.
        inputs: the model's.
        source: the file of the texts, for messages.

    Raises OnnxoptError if the tokenizer cannot be read, the library is missing, or the model takes something else than
    a text's tokens.
    """

    def __init__(self, tokenizer: Path, inputs: Sequence[Input], source: str) -> None:
        self._path, self._inputs, self._source = tokenizer, inputs, source
        self._parts = {name: part for part, name in parts_of({one.name: one.dtype for one in inputs}).items()}
        _check(inputs, self._parts, source)
        self.fixed = next((one.batch for one in inputs if one.batch is not None), None)
        """Samples that the model takes at once; None if any number."""
        lengths = [one.shape[1] for one in inputs if one.shape]
        self._length = next((size for size in lengths if isinstance(size, int) and known(size)), None)
        library = optional("tokenizers", "to turn texts into token ids")
        with _blamed(f"{tokenizer}: not a tokenizer.json of Hugging Face's tokenizers that can be read"):
            self._made = library.Tokenizer.from_file(str(tokenizer))
            self._limit()
            self._pad()

    def __repr__(self) -> str:
        """What determines the inputs, besides the tokenizer's file."""
        return f"{self._length} {self._made.truncation} {self._made.padding} {self._parts}"

    def __call__(self, texts: list[str]) -> dict[str, Array]:
        """The inputs `[samples, tokens]` of texts.

        Raises OnnxoptError where a text gives no token, or more than the model takes.
        """
        source = self._source
        with _blamed(f"{self._path}: cannot encode a text of {source}"):
            encoded = self._made.encode_batch(texts)
        mask = np.array([one.attention_mask for one in encoded], np.int64)
        empty = np.flatnonzero(mask.sum(1) == 0)
        if len(empty):
            raise OnnxoptError(f"{source}: {self._path} gives no tokens for {texts[empty[0]][:40]!r}; leave such "
                               "samples out")  # fmt: skip
        make: dict[Part, Callable[[], Array]] = {
            Part.IDS: lambda: np.array([one.ids for one in encoded], np.int64),
            Part.MASK: lambda: mask,
            Part.TYPES: lambda: np.array([one.type_ids for one in encoded], np.int64),
            Part.POSITIONS: lambda: np.maximum(mask.cumsum(1) - 1, 0),
        }
        made = {entry.name: entry.cast(make[self._parts[entry.name]](), source) for entry in self._inputs}
        for entry in self._inputs:
            entry.check(made[entry.name], source)
        return made

    def lengths(self, texts: Sequence[str]) -> Array:
        """Tokens of each text, ``[texts]``. Raises OnnxoptError where a text cannot be encoded."""
        found = []
        for start in range(0, len(texts), _BLOCK):
            with _blamed(f"{self._path}: cannot encode a text of {self._source}"):
                encoded = self._made.encode_batch(list(texts[start : start + _BLOCK]))
            found += [sum(one.attention_mask) for one in encoded]
        return np.array(found)

    def _limit(self) -> None:
        """Cuts texts at the least of the lengths that are known."""
        given = self._made.truncation or {}
        lengths = [given.get("max_length"), _configured(self._path), self._length]
        if stated := [length for length in lengths if length]:
            self._made.enable_truncation(min(stated), direction=given.get("direction", "right"))

    def _pad(self) -> None:
        given = self._made.padding or {}
        name = next((one for one in _PADS if self._made.token_to_id(one) is not None), None)
        number = self._made.token_to_id(name) if name else 0
        self._made.enable_padding(
            direction=given.get("direction", "right"), pad_id=given.get("pad_id", number),
            pad_type_id=given.get("pad_type_id", 0), pad_token=given.get("pad_token", name or "[PAD]"),
            length=self._length,
        )  # fmt: skip


def _check(inputs: Sequence[Input], parts: Mapping[str, Part], source: str) -> None:
    """Raises OnnxoptError unless each input is a part of a text, and one holds the ids."""
    if Part.IDS not in parts.values():
        listed = ", ".join(f"{one.name} {one}" for one in inputs)
        raise OnnxoptError(f"{source}: the model's inputs are {listed}; texts are for models with one input of token "
                           f"ids, integers [batch, tokens]; {_INSTEAD}")  # fmt: skip
    for entry in inputs:
        if entry.name not in parts:
            raise OnnxoptError(f"{source}: texts give token ids, mask, types and positions, and the model also takes "
                               f"{entry.name!r}, {entry}; {_INSTEAD}")  # fmt: skip
        if len(entry.shape) not in (0, 2):
            raise OnnxoptError(f"{source}: input {entry.name!r} is {entry}, and texts give [batch, tokens]; "
                               f"{_INSTEAD}")  # fmt: skip


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Makes an OnnxoptError of whatever the library raises. It is written in Rust, whose panics are no `Exception`."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        raise OnnxoptError(f"{what}: {first_line(error)}") from error


def _configured(tokenizer: Path) -> int | None:
    """The most tokens that the `tokenizer_config.json` beside a tokenizer allows; None where it does not say."""
    file = tokenizer.with_name("tokenizer_config.json")
    try:
        length = json.loads(file.read_text(encoding="utf-8")).get("model_max_length")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return int(length) if isinstance(length, int | float) and 0 < length < _ENDLESS else None
