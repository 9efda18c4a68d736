"""Element types that NumPy lacks, and their elements as files and runtimes have them."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from onnxopt.native._library import Array


def _known(*names: str) -> frozenset[np.dtype[Any]]:
    """What NumPy calls ONNX's types. Older versions of onnx lack some, or have other types in their place."""
    types = dict(TensorProto.DataType.items())
    found = [np.dtype(helper.tensor_dtype_to_np_dtype(types[name])) for name in names if name in types]
    return frozenset(dtype for dtype in found if dtype.name.startswith(_NAMES))


_NAMES = ("bfloat16", "float8", "float4", "int4", "uint4")
PAIRED = _known("UINT4", "INT4", "FLOAT4E2M1")
"""Element types of 4 bits: two elements share a byte; in NumPy each has its own."""
EIGHT_BITS = _known("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ")
"""Floats of 8 bits."""
SIXTEEN_BITS = _known("BFLOAT16")
"""bfloat16."""


def paired(elements: Array) -> npt.NDArray[np.uint8]:
    """Elements of 4 bits as bytes[size / 2, rounded up], the first of two in the low half."""
    halves = np.ascontiguousarray(elements).reshape(-1).view(np.uint8) & 15
    halves = np.append(halves, np.zeros(halves.size % 2, np.uint8))
    return np.asarray(halves[::2] | halves[1::2] << 4)


def unpaired(pairs: npt.NDArray[np.uint8], dims: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The inverse of `paired`."""
    halves = np.stack((pairs & 15, pairs >> 4), -1).reshape(-1)[: prod(dims)]
    return halves.astype(np.int8).view(dtype).reshape(dims)


def file_bytes(elements: Array) -> bytes:
    """Elements as files and runtimes have them."""
    return (paired(elements) if elements.dtype in PAIRED else elements).tobytes()
