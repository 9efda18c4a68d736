"""Loading the native libraries, and what every call into them needs (include/onnxopt.h)."""

from __future__ import annotations

import ctypes
import sys
from contextlib import suppress
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxopt.errors import OnnxoptError

Array = npt.NDArray[Any]

LARGE_BLOCK, SMALL_BLOCK = 4 << 20, 1 << 18
"""Bytes of blocks of memory for `return_memory`; the second where memory counts more than time."""
_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")


def library_path() -> Path:
    """The shared library that ONNX Runtime registers. Raises OnnxoptError where it is missing."""
    return path_of("onnxopt")


def path_of(name: str) -> Path:
    """A native library's file. Raises OnnxoptError where it is missing."""
    prefix = "" if sys.platform == "win32" else "lib"
    path = Path(__file__).parents[1] / "lib" / f"{prefix}{name}.{_SUFFIX}"
    if not path.is_file():
        hint = ""
        if (Path(__file__).parent / "CMakeLists.txt").is_file():
            hint = ", then start Python outside this clone, whose sources it imports"
        raise OnnxoptError(f"{path}: the native library is missing; install onnxopt with `pip install .`{hint}")
    return path


class EntryInfo(ctypes.Structure):
    """``onnxopt_entry``."""

    _fields_ = (
        ("name", c_char_p),
        ("dims", POINTER(ctypes.c_int64)),
        ("codec", c_char_p),
        ("coded_size", c_uint64),
        ("size", c_uint64),
        ("rank", c_uint32),
        ("dtype", c_uint32),
        ("axis", c_uint32),
        ("reconstruction", c_uint32),
        ("auxiliary", c_uint32),
        ("hidden", c_uint32),
    )


_OUT = (POINTER(c_void_p), POINTER(c_size_t))
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "onnxopt_version": (c_char_p, ()),
    "onnxopt_last_error": (c_char_p, ()),
    "onnxopt_open": (c_void_p, (c_void_p, c_size_t)),
    "onnxopt_close": (None, (c_void_p,)),
    "onnxopt_entry_count": (c_size_t, (c_void_p,)),
    "onnxopt_entry_info": (c_int, (c_void_p, c_size_t, POINTER(EntryInfo))),
    "onnxopt_model": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "onnxopt_plan": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "onnxopt_prepare": (c_uint64, (c_void_p, c_uint, POINTER(c_void_p), POINTER(c_size_t))),
    "onnxopt_finish": (None, (c_uint64,)),
    "onnxopt_format_version": (c_uint32, (c_void_p,)),
    "onnxopt_values_crc": (c_uint32, (c_void_p,)),
    "onnxopt_decode": (c_int, (c_void_p, POINTER(c_void_p), c_uint)),
    "onnxopt_encode": (c_int, (c_void_p, c_size_t, c_size_t, c_int, c_int, *_OUT)),
    "onnxopt_encode_lossless": (c_int, (c_void_p, c_size_t, c_size_t, c_size_t, *_OUT)),
    "onnxopt_decode_integers": (c_int, (c_int, c_void_p, c_size_t, c_size_t, c_size_t, c_void_p)),
    "onnxopt_decode_lossless": (c_int, (c_void_p, c_size_t, c_size_t, c_size_t, c_size_t, c_void_p)),
    "onnxopt_decode_floats": (c_int, (c_int, c_void_p, c_size_t, c_size_t, c_size_t, c_void_p, c_void_p)),
    "onnxopt_codec_name": (c_char_p, (c_int,)),
    "onnxopt_simd": (c_char_p, ()),
    "onnxopt_set_simd": (c_int, (c_char_p,)),
    "onnxopt_free": (None, (c_void_p,)),
}


@cache
def library() -> ctypes.CDLL:
    """The library with typed functions. Raises OnnxoptError where it is missing."""
    loaded = ctypes.CDLL(str(library_path()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.restype, function.argtypes = result, arguments
    return loaded


def check(status: int, error: type[OnnxoptError] = OnnxoptError) -> int:
    """`status`. Raises `error` with the library's sentence where it is negative."""
    if status < 0:
        raise error(library().onnxopt_last_error().decode(errors="replace"))
    return status


def take(data: c_void_p, size: c_size_t) -> bytes:
    """The bytes of a buffer that the library handed over; frees it."""
    try:
        return ctypes.string_at(data, size.value)
    finally:
        library().onnxopt_free(data)


def pointer(array: Array) -> c_void_p:
    """The address of an array's first element."""
    return c_void_p(array.ctypes.data)


@cache
def keep_memory() -> None:
    """From now on freed blocks of all sizes stay with this process, up to 1 GB, for the next ones.

    For what allocates as much again and again: where each block is new, a third of the time is the system's.
    """
    with suppress(OSError, AttributeError):  # another system, another allocator
        libc = ctypes.CDLL(None)
        libc.mallopt(-8, 1)  # M_ARENA_MAX
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no block has a map of its own
        libc.mallopt(-1, 2**30)  # M_TRIM_THRESHOLD


def return_memory(blocks: int | None = None) -> None:
    """Gives memory that was freed back to the system.

    glibc keeps it otherwise: 0.6 GB for ResNet-50.

    Arguments:
        blocks: from now on, blocks of so many bytes go back as soon as they are freed. Smaller ones stay, up to 32 MB
            at a heap's end: with a bound of 1 MB for both, a fifth of a run's time went into pages that were given
            back and taken again. Of a transformer of 0.5 GB, freed blocks below 4 MB are 0.6 GB, as glibc does not
            find aligned ones again (before version 2.38).
    """
    with suppress(OSError, AttributeError):  # another system, another allocator
        libc = ctypes.CDLL(None)
        if blocks is not None:
            libc.mallopt(-3, blocks)  # M_MMAP_THRESHOLD, which then no longer adapts
            libc.mallopt(-1, 32 << 20)  # M_TRIM_THRESHOLD
        libc.malloc_trim(0)


def version() -> str:
    """The native library's version."""
    return str(library().onnxopt_version().decode())


def simd() -> str:
    """The vector instructions that the decoder uses on this machine."""
    return str(library().onnxopt_simd().decode())


def set_simd(name: str | None) -> None:
    """Forces the decoder's instructions (``"scalar"``, ``"avx2"``, ...); None: the best again. For benchmarks.

    Raises OnnxoptError where this machine does not have them.
    """
    check(library().onnxopt_set_simd(name.encode() if name else None))
