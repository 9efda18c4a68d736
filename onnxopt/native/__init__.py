"""The native libraries' C ABIs (native/include/onnxopt.h, native/quantizer/quantizer.h).

The only module that touches ctypes.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes import POINTER, byref, c_char_p, c_double, c_int, c_int32, c_size_t, c_uint, c_uint32, c_uint64, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import onnx

from onnxopt.errors import ContainerError, OnnxoptError

Array = npt.NDArray[Any]

CODECS = ("raw", "bitpack", "huffman", "rans", "context", "lossless")
"""Names of the codecs; the index is the id."""
PREFERENCES = ("smallest", "balanced", "fastest")

_SUFFIX = {"darwin": "dylib", "win32": "dll"}.get(sys.platform, "so")


def library_path() -> Path:
    """Where the shared library is that ONNX Runtime registers. Raises OnnxoptError where it is missing."""
    return _path("onnxopt")


def _path(name: str) -> Path:
    prefix = "" if sys.platform == "win32" else "lib"
    path = Path(__file__).parents[1] / "lib" / f"{prefix}{name}.{_SUFFIX}"
    if not path.is_file():
        raise OnnxoptError(f"{path}: the native library is missing; install onnxopt with `pip install .`")
    return path


class _EntryInfo(ctypes.Structure):
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
    "onnxopt_entry_info": (c_int, (c_void_p, c_size_t, POINTER(_EntryInfo))),
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
    "onnxopt_simd": (c_char_p, ()),
    "onnxopt_set_simd": (c_int, (c_char_p,)),
    "onnxopt_free": (None, (c_void_p,)),
}


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


@cache
def _quantizer() -> Any:
    function = ctypes.CDLL(str(_path("onnxopt_quantizer"))).onnxopt_quantize
    sizes, inputs, numbers, out = (c_size_t,) * 3, (c_void_p,) * 5, (c_int32, *(c_uint,) * 3), POINTER(c_double)
    function.restype, function.argtypes = c_int, (*sizes, *inputs, *numbers, c_void_p, out, out)
    return function


def _check(status: int, error: type[OnnxoptError] = OnnxoptError) -> int:
    if status < 0:
        raise error(_library().onnxopt_last_error().decode(errors="replace"))
    return status


def return_memory() -> None:
    """Large blocks go back to the system as soon as they are freed, and now those that were freed before.

    glibc keeps them otherwise (of ResNet-50: 0.6 GB).
    """
    with suppress(OSError, AttributeError):  # another system, another allocator
        libc = ctypes.CDLL(None)
        libc.mallopt(-3, 1 << 20)  # M_MMAP_THRESHOLD, which then no longer adapts
        libc.malloc_trim(0)


def _pointer(array: Array) -> c_void_p:
    return c_void_p(array.ctypes.data)


def version() -> str:
    """The native library's version."""
    return str(_library().onnxopt_version().decode())


def simd() -> str:
    """Which vector instructions the decoder uses on this machine."""
    return str(_library().onnxopt_simd().decode())


def set_simd(name: str | None) -> None:
    """Forces the decoder's instructions (``"scalar"``, ``"avx2"``, ...), or the best again. For benchmarks."""
    _check(_library().onnxopt_set_simd(name.encode() if name else None))


def encode(q: Array, codec: str | None = None, prefer: str = "balanced") -> tuple[str, bytes]:
    """Codes the integers ``q[rows, cols]``; returns the codec's name and the bytes.

    Without `codec` all are tried and the cheapest is kept, `prefer` weighing bytes against decoding time.
    Raises OnnxoptError where `codec` cannot hold these integers.
    """
    q = np.ascontiguousarray(q, np.int32)
    rows, cols = q.shape
    data, size = c_void_p(), c_size_t()
    wanted = -1 if codec is None else CODECS.index(codec)
    chosen = _check(
        _library().onnxopt_encode(_pointer(q), rows, cols, wanted, PREFERENCES.index(prefer), byref(data), byref(size))
    )
    return CODECS[chosen], _take(data, size)


def encode_lossless(values: Array) -> bytes:
    """Codes the elements of ``values[rows, cols]`` bit for bit."""
    values = np.ascontiguousarray(values)
    rows, cols = values.shape
    data, size = c_void_p(), c_size_t()
    status = _library().onnxopt_encode_lossless(
        _pointer(values), values.dtype.itemsize, rows, cols, byref(data), byref(size)
    )
    _check(status)
    return _take(data, size)


def _take(data: c_void_p, size: c_size_t) -> bytes:
    try:
        return ctypes.string_at(data, size.value)
    finally:
        _library().onnxopt_free(data)


def decode(codec: str, data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """Inverse of `encode`. Raises ContainerError on malformed data."""
    q = np.empty((rows, cols), np.int32)
    status = _library().onnxopt_decode_integers(CODECS.index(codec), data, len(data), rows, cols, _pointer(q))
    _check(status, ContainerError)
    return q


def decode_lossless(data: bytes, dtype: npt.DTypeLike, rows: int, cols: int) -> Array:
    """Inverse of `encode_lossless`. Raises ContainerError on malformed data."""
    out = np.empty((rows, cols), dtype)
    status = _library().onnxopt_decode_lossless(data, len(data), out.dtype.itemsize, rows, cols, _pointer(out))
    _check(status, ContainerError)
    return out


def decode_floats(codec: str, data: bytes, scales: npt.NDArray[np.float32], cols: int) -> npt.NDArray[np.float32]:
    """Decodes into ``scales[row] * q[row, col]`` on one thread. Raises ContainerError on malformed data."""
    out = np.empty((len(scales), cols), np.float32)
    status = _library().onnxopt_decode_floats(
        CODECS.index(codec), data, len(data), len(scales), cols, _pointer(scales), _pointer(out)
    )
    _check(status, ContainerError)
    return out


FINEST = 1 << 22
"""Integers of larger magnitude are not chosen by `quantize`: beyond, a float32 in steps has no fraction left."""


def quantize(
    w: Array,
    feedback: Array | None,
    variance: npt.ArrayLike,
    step: npt.ArrayLike,
    price: npt.ArrayLike,
    max_level: int | None = None,
    sweeps: int = 2,
    survivors: int = 8,
    threads: int = 0,
) -> tuple[npt.NDArray[np.int32], float, float]:
    """Chooses the integers ``q`` of weights on grids ``step * q``: error feedback with rate-aware rounding.

    Columns are quantized in order; the error ``e`` of column i costs ``variance[i] * e**2`` and every later column j
    gets ``w_j += e * feedback[i, j]``. With ``H + damping = U^-1 U^-T``, the Cholesky factor of the inverse,
    ``feedback = -U / diag(U)[:, None]`` and ``variance = 1 / diag(U)**2`` make the summed cost the output error
    [OBQ/GPTQ, Frantar et al. 2022, arXiv 2210.17323; LDLQ, Chee et al. 2023, arXiv 2307.13304]. Among floor, ceil, one
    nearer to zero, and zero, the integer of least ``variance * e**2 + price * bits(q)`` is taken, the bits from the
    histograms that the sweep before left. The last sweep keeps the 8 best beginnings of every row (docs/quantizer.md).
    The result is the same on any number of threads (0: all cores).

    Args:
        w: ``[rows, cols]``, or ``[groups, rows, cols]`` for matrices that share the histograms.
        feedback: ``[cols, cols]`` or ``[groups, cols, cols]``, read above the diagonal only; None: errors are not
            passed on.
        variance: Not negative, broadcast to ``[groups, cols]``.
        step: Positive, broadcast to ``w.shape[:-1]``.
        price: Of one bit, in the cost's unit; not negative, broadcast to ``w.shape[:-1]``.
        max_level: Bound on ``|q|``, `FINEST` at most; weights beyond it saturate. None: none may be beyond `FINEST`.
        sweeps: How many times the integers are chosen.
        survivors: 8, or 1 for a last sweep like those before: faster, and 3 to 6 % more bytes for the same error.
        threads: How many threads to use.

    Returns:
        ``q`` in w's shape; the bits that an adaptive coder takes for it; the summed cost without the price of bits.

    Raises OnnxoptError where an argument's shape or values are not as above.
    """
    w = _finite("w", w)
    if w.ndim not in (2, 3):
        raise OnnxoptError(f"quantize: w has the shape {w.shape}; [rows, cols] or [groups, rows, cols] is expected")
    rows, cols = w.shape[-2:]
    groups = w.shape[:-2]
    if feedback is not None:
        feedback = _finite("feedback", feedback, (*groups, cols, cols))
    variance = _finite("variance", variance, (*groups, cols), "not negative")
    step = _finite("step", step, w.shape[:-1], "positive")
    price = _finite("price", price, w.shape[:-1], "not negative")
    if max_level is None:
        max_level = FINEST
        if w.size and (np.abs(w).max(-1) > FINEST * step).any():
            raise OnnxoptError(
                f"quantize: the step is too fine; at most {FINEST} steps to the largest weight are expected"
            )
    if not 0 <= max_level <= FINEST or sweeps < 1 or survivors not in (1, 8):
        raise OnnxoptError(
            f"quantize: max_level is {max_level}, sweeps {sweeps} and survivors {survivors}; 0 to {FINEST}, 1 or more, "
            "and 1 or 8 are expected"
        )
    q, cost, bits = np.empty(w.shape, np.int32), c_double(), c_double()
    inputs = (None if a is None else _pointer(a) for a in (w, feedback, variance, step, price))
    sizes = (groups[0] if groups else 1, rows, cols)
    numbers = (max_level, sweeps, survivors, threads)
    if _quantizer()(*sizes, *inputs, *numbers, _pointer(q), byref(cost), byref(bits)) != 0:
        raise OnnxoptError(f"quantize: not enough memory for weights of the shape {w.shape}")
    return q, bits.value, cost.value


def _finite(
    name: str, values: npt.ArrayLike, shape: tuple[int, ...] | None = None, sign: str = ""
) -> npt.NDArray[np.float32]:
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise OnnxoptError(f"quantize: {name} has the element type {array.dtype}; numbers are expected")
    try:
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(np.broadcast_to(array, array.shape if shape is None else shape), np.float32)
    except ValueError as error:
        raise OnnxoptError(f"quantize: {name} has the shape {array.shape}; {shape} is expected") from error
    least = array.min(initial=1)
    if not np.isfinite(array.sum(dtype=np.float64)) or (sign and least < 0) or (sign == "positive" and least == 0):
        expected = f"finite and {sign}" if sign else "finite"
        raise OnnxoptError(f"quantize: {name} has values that are not {expected}")
    return array


@dataclass(frozen=True, slots=True)
class Entry:
    """One stored tensor, as the container's table lists it."""

    name: str
    """Empty for the scales and tables of other entries."""
    dtype: int
    """ONNX's TensorProto.DataType."""
    dims: tuple[int, ...]
    codec: str
    coded_size: int
    """Bytes in the file."""
    size: int
    """Bytes when decoded."""
    axis: int
    reconstruction: str
    auxiliary: int | None
    """Index of the entry with the scales or the table."""

    @property
    def hidden(self) -> bool:
        """Whether this holds another entry's scales or table and is no tensor of the model."""
        return not self.name


class Container:
    """A compressed model or bare container, read by the native reader; checks everything before use.

    Raises ContainerError where `data` is damaged or no container.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data  # the reader keeps views into it
        self._handle = _library().onnxopt_open(data, len(data))
        if not self._handle:
            _check(-1, ContainerError)
        self.entries: Sequence[Entry] = [self._entry(i) for i in range(_library().onnxopt_entry_count(self._handle))]
        self.model = self._blob("onnxopt_model")
        self.plan = self._blob("onnxopt_plan").decode(errors="replace")
        self.version: int = _library().onnxopt_format_version(self._handle)
        self.values_crc: int = _library().onnxopt_values_crc(self._handle)

    def _entry(self, index: int) -> Entry:
        info = _EntryInfo()
        _check(_library().onnxopt_entry_info(self._handle, index, byref(info)), ContainerError)
        return Entry(
            name=info.name.decode(errors="replace"),
            dtype=info.dtype,
            dims=tuple(info.dims[: info.rank]),
            codec=info.codec.decode(),
            coded_size=info.coded_size,
            size=info.size,
            axis=info.axis,
            reconstruction=("none", "scales", "table")[info.reconstruction],
            auxiliary=info.auxiliary if info.reconstruction else None,
        )

    def _blob(self, function: str) -> bytes:
        size = c_size_t()
        data = getattr(_library(), function)(self._handle, byref(size))
        return ctypes.string_at(data, size.value)

    def decode(self, threads: int = 0) -> dict[str, Array]:
        """Every tensor of the model by name, decoded on `threads` threads (0: all cores). Raises ContainerError."""
        try:
            arrays = [
                None if e.hidden else np.empty(e.dims, onnx.helper.tensor_dtype_to_np_dtype(e.dtype))
                for e in self.entries
            ]
        except MemoryError as error:
            size = sum(e.size for e in self.entries if not e.hidden)
            raise ContainerError(f"decoded, its weights take {size} bytes: more than this machine gives") from error
        out = (c_void_p * len(arrays))(*(None if a is None else a.ctypes.data for a in arrays))
        _check(_library().onnxopt_decode(self._handle, out, threads), ContainerError)
        return {e.name: a for e, a in zip(self.entries, arrays, strict=True) if a is not None}

    def close(self) -> None:
        """Frees the reader; the container cannot be used any more."""
        if self._handle:
            _library().onnxopt_close(self._handle)
            self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


@contextmanager
def prepared(data: bytes) -> Iterator[tuple[str, bytes]]:
    """A model with decoded weights, for one session that is created in this context.

    Yields the session config entry ``onnxopt.prepared``, with which the library is to be registered, and the model to
    create the session from: see ``onnxopt_prepare`` in onnxopt.h. Raises ContainerError.
    """
    with Container(data) as container:
        model, size = c_void_p(), c_size_t()
        key = _library().onnxopt_prepare(container._handle, 0, byref(model), byref(size))
    if not key:
        _check(-1, ContainerError)
    del data, container
    try:
        yield str(key), ctypes.string_at(model, size.value)
    finally:
        _library().onnxopt_finish(key)
