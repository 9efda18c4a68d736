"""A model's inputs, and whether an array fits one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime

from onnxopt.data.random import TYPES, Array
from onnxopt.errors import OnnxoptError

_CHUNK = 2**26
"""Bytes of an array that are checked at a time."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input of a model."""

    name: str
    dtype: np.dtype[Any] | None
    """None if NumPy has no such type; then any array is accepted unchanged."""
    shape: tuple[int | str | None, ...]
    """A name, None or a number below one is an unknown size; an empty shape is a scalar or of unknown rank."""

    def __str__(self) -> str:
        sizes = [str(size) if known(size) or isinstance(size, str) else "?" for size in self.shape]
        return f"{self.dtype or 'unknown'} [{', '.join(sizes)}]"

    @property
    def batch(self) -> int | None:
        """Samples that the model takes at once; None if any number."""
        size = self.shape[0] if self.shape else None
        return size if isinstance(size, int) and known(size) else None

    def takes(self, shape: tuple[int, ...], samples: bool = False) -> bool:
        """Whether an array of this shape fits; with `samples`, after it is cut into batches along its first axis."""
        if not self.shape:
            return True
        pairs = zip(self.shape[samples:], shape[samples:], strict=False)
        return len(shape) == len(self.shape) and all(a == b for a, b in pairs if known(a))

    def takes_kind(self, array: Array) -> bool:
        """Whether the array's numbers are of the input's kind; `cast` decides whether each fits."""
        return self.dtype is None or _kind(array.dtype) == _kind(self.dtype)

    def check(self, array: Array, source: str, samples: bool = False) -> None:
        """Raises OnnxoptError unless the array's kind and shape are the input's (`samples`: see `takes`).

        `source` names the origin of the array in the message.
        """
        if not self.takes_kind(array) or not self.takes(array.shape, samples):
            found = f"{array.dtype} [{', '.join(map(str, array.shape))}]"
            raise OnnxoptError(f"{source}: input {self.name!r} is given {found}, the model takes {self}")

    def cast(self, array: Array, source: str) -> Array:
        """The array in the input's type. Raises OnnxoptError if an integer does not fit into that."""
        if self.dtype is None or array.dtype == self.dtype:
            return array
        with np.errstate(over="ignore"):
            cast = array.astype(self.dtype)
        floats = array.dtype.kind == "f" and cast.dtype.kind == "f"
        fits = np.isfinite(cast) | ~np.isfinite(array) if floats else cast == array
        if not np.all(fits):
            raise OnnxoptError(f"{source}: input {self.name!r} is given numbers that do not fit into {self.dtype}")
        return cast

    def check_finite(self, array: Array, source: str, axis: int | None) -> None:
        """Raises OnnxoptError if a number is NaN or infinite.

        `source` names the origin of the array in the message, `axis` is that of the samples.
        """
        if array.dtype.kind != "f":
            return
        rows = np.atleast_1d(array)
        step = max(1, _CHUNK // max(1, rows[:1].nbytes))
        for start in range(0, len(rows), step):
            finite = np.isfinite(rows[start : start + step])
            if not finite.all():
                first = np.unravel_index(int(np.argmin(finite)), finite.shape)
                place = (int(first[0]) + start, *map(int, first[1:]))
                where = "" if axis is None else f" in sample {place[axis]}"
                raise OnnxoptError(f"{source}: input {self.name!r} holds {rows[place]}{where}, expected finite numbers")


def known(size: int | str | None) -> bool:
    """Whether a dimension's size is fixed by the model."""
    return isinstance(size, int) and size > 0


def inputs_of(session: onnxruntime.InferenceSession) -> list[Input]:
    """The inputs of a session."""
    found = []
    for value in session.get_inputs():
        kind = TYPES.get(value.type.removeprefix("tensor(").removesuffix(")"))
        found.append(Input(value.name, np.dtype(kind) if kind else None, tuple(value.shape)))
    return found


def only(inputs: list[Input], source: str, otherwise: str) -> Input:
    """The single input of a model. Raises OnnxoptError if there are several, saying what to do `otherwise`."""
    if len(inputs) != 1:
        names = ", ".join(entry.name for entry in inputs)
        raise OnnxoptError(f"{source}: the model has {len(inputs)} inputs ({names}); {otherwise}")
    return inputs[0]


def _kind(dtype: np.dtype[Any]) -> str:
    """The kind of type; signed and unsigned integers are one, as the cast checks each value."""
    return "i" if dtype.kind == "u" else dtype.kind
