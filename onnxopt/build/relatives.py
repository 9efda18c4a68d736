"""Weights that follow from another: tied embeddings, their transposes, scales that are products."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import pack

import numpy as np
import numpy.typing as npt

from onnxopt import native
from onnxopt.encoding import Array, Encoding, Raw, matrix_view

_NEWEST = 16
"""Of the weights of the same size, so many are looked at."""
_SAMPLES = 16
"""Elements that must agree before all are compared."""
_MOST_STEPS = 2
"""Units in the last place between a weight and its multiple: what one more rounding leaves."""


@dataclass(frozen=True, slots=True)
class Relation:
    """How a weight's elements follow from those of another (FORMAT.md, *relative*)."""

    other: str
    steps: npt.NDArray[np.int32]
    """Of the weight's shape: the difference of the bits, as integers."""
    transposed: bool = False
    scale: np.float32 | None = None

    def fields(self) -> bytes:
        """As in the entry's record."""
        scaled = b"" if self.scale is None else pack("<f", self.scale)
        return bytes((self.transposed | bool(scaled) << 1,)) + scaled


def relations(weights: Mapping[str, Encoding]) -> dict[str, Relation]:
    """The weights that are another one, its transpose, or a multiple of it; by name. The other one is none of them."""
    found: dict[str, Relation] = {}
    seen: dict[tuple[np.dtype[np.generic], int], list[tuple[str, Array]]] = {}
    for name, weight in weights.items():
        if not isinstance(weight, Raw) or weight.elements.dtype in native.PAIRED:
            continue
        elements = np.ascontiguousarray(weight.elements)
        others = seen.setdefault((elements.dtype, elements.size), [])
        relation = next(_related(elements, others[-_NEWEST:]), None)
        if relation is None:
            others.append((name, elements))
        else:
            found[name] = relation
    return found


def _related(elements: Array, others: list[tuple[str, Array]]) -> Iterator[Relation]:
    bits = _bits(elements)
    none = np.zeros(elements.shape, np.int32)
    rows, cols = matrix_view(elements.shape, 0)
    for name, other in reversed(others):
        if _same(bits, _bits(other)):
            yield Relation(name, none)
        if min(rows, cols) > 1 and _same(bits.reshape(rows, cols), _bits(other).reshape(cols, rows).T):
            yield Relation(name, none, transposed=True)
    if elements.dtype == np.float32 and np.isfinite(elements).all():
        for name, other in reversed(others):
            if (multiple := _multiple(elements, other.reshape(elements.shape))) is not None:
                scale, steps = multiple
                yield Relation(name, steps, scale=scale)


def _bits(elements: Array) -> Array:
    return elements.reshape(-1).view(f"u{elements.itemsize}")


def _same(a: Array, b: Array) -> bool:
    return all(np.array_equal(a[at], b[at]) for at in (_sample(len(a)), slice(None)))


def _sample(n: int) -> slice:
    return slice(None, None, -(-n // _SAMPLES))


def _multiple(wanted: Array, other: Array) -> tuple[np.float32, npt.NDArray[np.int32]] | None:
    """The factor that makes `wanted` of `other`, and the steps that are left; None where it does not."""
    largest = np.abs(other).argmax()
    with np.errstate(all="ignore"):
        factor = np.float64(wanted.flat[largest]) / np.float64(other.flat[largest])
        at = _sample(wanted.size)
        sampled, from_other = wanted.reshape(-1)[at], other.reshape(-1)[at].astype(np.float64)
        if not factor or not np.allclose(sampled, factor * from_other, 1e-6, 0):
            return None
        whole = np.where(other == 0, np.nan, np.divide(wanted, other, dtype=np.float64))
        factor = np.nanmedian(whole)
        nearest = np.float32(factor)
        scales = (nearest, np.nextafter(nearest, np.float32(np.inf)), np.nextafter(nearest, np.float32(-np.inf)))
        tried = [(scale, _steps(wanted, other * scale)) for scale in scales if np.isfinite(scale)]
    fitting = [(np.abs(steps).sum(), scale, steps) for scale, steps in tried if np.abs(steps).max() <= _MOST_STEPS]
    if not fitting:
        return None
    _, scale, steps = min(fitting, key=lambda one: one[0])
    return scale, steps.astype(np.int32)


def _steps(wanted: Array, made: Array) -> npt.NDArray[np.int64]:
    return wanted.view(np.int32).astype(np.int64) - made.astype(np.float32).view(np.int32)
