"""The reader protocol."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from onnxopt.data.inputs import Input
from onnxopt.data.preprocess import ImageOptions
from onnxopt.data.stream import Data

Spec = str | os.PathLike[str] | Callable[[], Iterable[Any]] | Iterable[Any]


@dataclass(frozen=True, slots=True)
class Options:
    """What a user says of how data becomes inputs. Each option is for one kind of data."""

    images: ImageOptions = field(default_factory=ImageOptions)
    tokenizer: str | os.PathLike[str] | None = None
    """For texts: the path of a `tokenizer.json`."""
    sample_rate: int | None = None
    """For audio: samples a second that the model takes."""


class Reader(ABC):
    """Opens one kind of data. Subclasses stand in a module of their own in this folder."""

    priority: ClassVar[int]
    """Readers of lower priority are asked first; of two that claim a specification, the first one opens it."""
    reads: ClassVar[str]
    """What it reads, for the error message of `open_data`: "a folder of images"."""
    takes: ClassVar[str] = ""
    """The field of `Options` that it takes; another that is set is an error."""

    @abstractmethod
    def claims(self, spec: Spec) -> bool:
        """Whether the specification is of this kind."""

    @abstractmethod
    def open(self, spec: Any, inputs: list[Input], options: Options) -> Data:
        """The data of a specification that it claims. Raises OnnxoptError if the model does not take it.

        Arguments:
            inputs: the model's.
            options: only the field that the reader `takes` may be set.
        """


def path_of(spec: Spec) -> Path | None:
    """The path that a specification names; None for functions and iterables."""
    return Path(spec) if isinstance(spec, str | os.PathLike) else None
