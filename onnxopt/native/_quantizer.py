"""The quantizer: integers of weights by error feedback (quantizer/quantizer.h)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_double, c_int, c_int32, c_size_t, c_uint, c_void_p
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxopt.errors import OnnxoptError
from onnxopt.native._library import Array, path_of, pointer

FINEST = 1 << 22
"""The largest magnitude of integers that `quantize` chooses: beyond it, a float32 in steps has no fraction left."""


@dataclass(frozen=True, slots=True)
class QuantizerOptions:
    """Bounds and effort of `quantize`. Raises OnnxoptError where a value is impossible."""

    max_level: int | None = None
    """Bound on ``|q|``, `FINEST` at most; weights beyond it saturate. None: no weight may be beyond `FINEST`."""
    sweeps: int = 2
    """How many times the integers are chosen."""
    survivors: int = 8
    """Beam of the last sweep. 8, or 1 for a sweep like those before: faster, and 3 to 6 % more bytes for the same
    error."""
    threads: int = 0
    """0: all cores."""

    def __post_init__(self) -> None:
        bounded = self.max_level is None or 0 <= self.max_level <= FINEST
        if not bounded or self.sweeps < 1 or self.survivors not in (1, 8):
            raise OnnxoptError(
                f"quantize: max_level is {self.max_level}, sweeps {self.sweeps} and survivors {self.survivors}; "
                f"0 to {FINEST}, 1 or more, and 1 or 8 are expected"
            )


_DEFAULTS = QuantizerOptions()


@cache
def _function() -> Any:
    function = ctypes.CDLL(str(path_of("onnxopt_quantizer"))).onnxopt_quantize
    sizes, inputs, numbers, out = (c_size_t,) * 3, (c_void_p,) * 5, (c_int32, *(c_uint,) * 3), POINTER(c_double)
    function.restype, function.argtypes = c_int, (*sizes, *inputs, *numbers, c_void_p, out, out)
    return function


def quantize(
    w: Array,
    feedback: Array | None,
    variance: npt.ArrayLike,
    step: npt.ArrayLike,
    price: npt.ArrayLike,
    options: QuantizerOptions = _DEFAULTS,
) -> tuple[npt.NDArray[np.int32], float, float]:
    """Chooses the integers ``q`` of weights on grids ``step * q``: error feedback with rate-aware rounding.

    Columns are quantized in order. The error ``e`` of column i costs ``variance[i] * e**2``, and every later column j
    gets ``w_j += e * feedback[i, j]``. With ``H + damping = U^-1 U^-T``, the Cholesky factor of the inverse,
    ``feedback = -U / diag(U)[:, None]`` and ``variance = 1 / diag(U)**2``, the summed cost is the output error
    [OBQ/GPTQ, Frantar et al. 2022, arXiv 2210.17323; LDLQ, Chee et al. 2023, arXiv 2307.13304]. Among floor, ceil, one
    nearer to zero, and zero, the integer of least ``variance * e**2 + price * bits(q)`` is taken, with bits from the
    histograms of the sweep before. The last sweep is a beam search over the rows (docs/quantizer.md). The result does
    not depend on the number of threads.

    Args:
        w: ``[rows, cols]``, or ``[groups, rows, cols]`` for matrices that share the histograms.
        feedback: ``[cols, cols]`` or ``[groups, cols, cols]``, read above the diagonal only; None: errors are not
            passed on.
        variance: Not negative, broadcast to ``[groups, cols]``.
        step: Positive, broadcast to ``w.shape[:-1]``.
        price: Of one bit, in the cost's unit; not negative, broadcast to ``w.shape[:-1]``.
        options: Bounds and effort.

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
    max_level = FINEST if options.max_level is None else options.max_level
    with np.errstate(over="ignore"):
        finest = FINEST * step
    if options.max_level is None and w.size and (np.abs(w).max(-1) > finest).any():
        raise OnnxoptError(f"quantize: the step is too fine; at most {FINEST} steps to the largest weight are expected")
    q, cost, bits = np.empty(w.shape, np.int32), c_double(), c_double()
    inputs = (None if a is None else pointer(a) for a in (w, feedback, variance, step, price))
    sizes = (groups[0] if groups else 1, rows, cols)
    numbers = (max_level, options.sweeps, options.survivors, options.threads)
    if _function()(*sizes, *inputs, *numbers, pointer(q), byref(cost), byref(bits)) != 0:
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
