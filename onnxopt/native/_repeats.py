"""Modes 4 and 5 of the lossless codec: elements that repeat earlier ones, and columns for rows
(docs/format/lossless.md)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator, Sequence
from ctypes import c_size_t, c_ssize_t, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from onnxopt.errors import OnnxoptError
from onnxopt.native._library import Array, path_of, pointer

REPEATS, TRANSPOSED = 4, 5
_VERSION = 2
"""Of the container, which has these modes."""
_SHORTEST = {1: (6, 16, 64), 2: (3, 8, 32), 4: (2, 4, 16), 8: (2, 8, 32)}
"""By bytes of an element: the shortest repeats to try. A short one pays where elements are dear, and costs where they
are cheap: small integers, or a palette."""
_FEW = 64
"""One element in so many: where fewer repeat, 1 % of the bytes is not worth the time."""
_SAMPLE = 1 << 16
"""Elements of a large matrix that are tried in each form."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Elements, lossless."""

    data: bytes
    version: int
    """Of the container format, at least, that holds it."""

    def behind(self, head: bytes) -> Stream:
        """The rest of a stream in one of these modes."""
        return Stream(head + self.data, max(self.version, _VERSION))


@dataclass(frozen=True, slots=True)
class Matches:
    """Repeats in order, one number each; see `quantizer/find_repeats.h`."""

    gaps: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    distances: npt.NDArray[np.int32]
    ways: npt.NDArray[np.int32]

    def stored(self, n: int) -> npt.NDArray[np.bool_]:
        """[n]: whether an element is no repeat."""
        edges = np.zeros(n + 1, np.int8)
        ends = np.cumsum(self.gaps.astype(np.int64) + self.lengths)
        np.add.at(edges, ends - self.lengths, 1)
        np.add.at(edges, ends, -1)
        return np.asarray(np.cumsum(edges[:n], dtype=np.int8) == 0)


@cache
def _function() -> Any:
    function = ctypes.CDLL(str(path_of("onnxopt_quantizer"))).onnxopt_find_repeats
    function.restype, function.argtypes = c_ssize_t, (c_void_p, *(c_size_t,) * 4, c_void_p)
    return function


def find(values: Array, shortest: int) -> Matches:
    """Repeats of at least `shortest` elements among those of `values`, in row-major order."""
    capacity = values.size // shortest
    out = np.empty((4, capacity), np.int32)
    count = _function()(pointer(values), values.itemsize, values.size, shortest, capacity, pointer(out))
    if count < 0:
        raise OnnxoptError(f"not enough memory to find repeats among {values.size} elements")
    return Matches(*(row[:count] for row in out))


def streams(
    values: Array, columns: Iterable[int], coded: Callable[[Array], bytes], single: Callable[[Array], Stream]
) -> Iterator[Stream]:
    """The forms in modes 4 and 5 of ``values[rows, cols]`` that are worth trying.

    Args:
        values: elements.
        columns: lengths of rows, for mode 5; each divides the number of elements.
        coded: codes a matrix of integers, as it stands inside a lossless stream.
        single: codes elements in one of the other modes.
    """
    if not 0 < values.size < np.iinfo(np.int32).max:
        return
    coders = coded, single
    lengths = [0, *(length for length in columns if 1 < length < values.size)]
    form = _promising(values, lengths, coders)
    if form is None:
        yield from (stream for _, stream in _every(values, lengths, coders))
    elif (found := _made(values, form, coders)) is not None:
        yield found


_Coders = tuple[Callable[[Array], bytes], Callable[[Array], Stream]]


class _Form(NamedTuple):
    length: int
    """Of a row in mode 5; 0: the elements are as they were."""
    shortest: int
    """Elements of a repeat in mode 4; 0: none are looked for."""


def _promising(values: Array, lengths: Sequence[int], coders: _Coders) -> _Form | None:
    """The form in which a few rows in the middle of a large matrix are smallest, if repeats make them so: then the
    others need not be tried on all of it. None if they do not, as repeats may be further apart."""
    rows, middle = _SAMPLE // values.shape[1], len(values) // 2
    if not 0 < rows <= len(values) // 4:
        return None
    sample = values[middle : middle + rows]
    every = [(len(stream.data), form) for form, stream in _every(sample, lengths, coders)]
    size, form = min(every, default=(0, _Form(0, 0)))
    _, single = coders
    return form if form.shortest and 20 * size < 19 * len(single(sample).data) else None


def _every(values: Array, lengths: Sequence[int], coders: _Coders) -> Iterator[tuple[_Form, Stream]]:
    for length in lengths:
        for shortest in _SHORTEST[values.itemsize]:
            form = _Form(length, shortest)
            if (found := _made(values, form, coders)) is None:
                break
            yield form, found
        if length and (found := _made(values, form := _Form(length, 0), coders)) is not None:
            yield form, found


def _made(values: Array, form: _Form, coders: _Coders) -> Stream | None:
    """The elements in a form; None where few of them repeat."""
    _, single = coders
    if not form.length:
        return _repeating(values.reshape(-1), form.shortest, coders)
    turned = np.ascontiguousarray(values.reshape(-1, form.length).T)
    found = _repeating(turned.reshape(-1), form.shortest, coders) if form.shortest else single(turned)
    return None if found is None else found.behind(bytes((TRANSPOSED,)) + varint(form.length))


def _repeating(flat: Array, shortest: int, coders: _Coders) -> Stream | None:
    """Mode 4."""
    coded, single = coders
    found = find(flat, shortest)
    if int(found.lengths.sum()) * _FEW < flat.size:
        return None
    matches = b"".join(coded(row.reshape(1, -1)) for row in (found.gaps, found.lengths, found.distances, found.ways))
    stored = single(flat[found.stored(flat.size)].reshape(1, -1))
    return stored.behind(bytes((REPEATS,)) + varint(len(found.gaps)) + matches)


def repeats_far(values: Array, chunk: int) -> bool:
    """Whether one element in 16 of ``values[rows, cols]`` repeats another in an earlier chunk of `chunk` elements."""
    if values.size >= np.iinfo(np.int32).max:
        return False
    found = find(np.ascontiguousarray(values).reshape(-1), _SHORTEST[values.itemsize][-1])
    first = np.cumsum(found.gaps.astype(np.int64) + found.lengths) - found.lengths
    far = first // chunk > (first - found.distances) // chunk
    return 16 * int(found.lengths[far].sum()) > values.size


def varint(value: int) -> bytes:
    """LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
