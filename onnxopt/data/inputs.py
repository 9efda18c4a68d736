"""What a model takes, and whether an array is that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from onnxopt.data.random import TYPES, Array
from onnxopt.errors import OnnxoptError


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a model."""

    name: str
    dtype: np.dtype[Any] | None
    """None where numpy has no such type; then every array is taken as it is."""
    shape: tuple[int | str | None, ...]
    """Names, None or less than one are unknown sizes; empty is a scalar, or of unknown rank."""

    def __str__(self) -> str:
        sizes = [str(size) if known(size) or isinstance(size, str) else "?" for size in self.shape]
        return f"{self.dtype or 'unknown'} [{', '.join(sizes)}]"

    @property
    def batch(self) -> int | None:
        """Samples that the model takes at once; None where it takes any number."""
        size = self.shape[0] if self.shape else None
        return size if isinstance(size, int) and known(size) else None

    def takes(self, shape: tuple[int, ...], samples: bool = False) -> bool:
        """Whether an array of this shape fits; with `samples`, cut into batches along its first dimension."""
        if not self.shape:
            return True
        pairs = zip(self.shape[samples:], shape[samples:], strict=False)
        return len(shape) == len(self.shape) and all(a == b for a, b in pairs if known(a))

    def check(self, array: Array, source: str, samples: bool = False) -> None:
        """Raises OnnxoptError unless the array's kind and shape are the input's (`samples`: see `takes`).

        `source` is where the array is from.
        """
        same_kind = self.dtype is None or _kind(array.dtype) == _kind(self.dtype)
        if not same_kind or not self.takes(array.shape, samples):
            found = f"{array.dtype} [{', '.join(map(str, array.shape))}]"
            raise OnnxoptError(f"{source}: input {self.name!r} is given {found}, the model takes {self}")

    def cast(self, array: Array, source: str) -> Array:
        """The array in the input's type. Raises OnnxoptError where a whole number does not fit into it."""
        if self.dtype is None or array.dtype == self.dtype:
            return array
        with np.errstate(over="ignore"):
            cast = array.astype(self.dtype)
        if array.dtype.kind != "f" and not np.array_equal(cast, array):
            raise OnnxoptError(f"{source}: input {self.name!r} is given numbers that do not fit into {self.dtype}")
        return cast


def known(size: int | str | None) -> bool:
    """Whether a dimension's size is fixed by the model."""
    return isinstance(size, int) and size > 0


def inputs_of(session: onnxruntime.InferenceSession) -> list[Input]:
    """What a session must be fed."""
    found = []
    for value in session.get_inputs():
        kind = TYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
        found.append(Input(value.name, np.dtype(kind) if kind else None, tuple(value.shape)))
    return found


def only(inputs: list[Input], source: str, otherwise: str) -> Input:
    """The single input of a model. Raises OnnxoptError where there are several, saying what to do `otherwise`."""
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise OnnxoptError(f"{source}: the model has {len(inputs)} inputs ({names}); {otherwise}")
    return inputs[0]


def _kind(dtype: np.dtype[Any]) -> str:
    """Signed and unsigned whole numbers are one kind: whether each value fits is seen when they are cast."""
    return "i" if dtype.kind == "u" else dtype.kind
