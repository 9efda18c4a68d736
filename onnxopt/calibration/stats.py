"""Statistics of a weight: the inputs that it multiplies, and how much its noise matters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt
import onnx
from scipy.linalg import lapack

from onnxopt.data import chosen_session
from onnxopt.encoding import Array, Grid
from onnxopt.files.set_aside import elements_of
from onnxopt.graph import Linear, expose, observe, without_defaults
from onnxopt.metrics.output_error import output_error

Floats = npt.NDArray[np.float64]
_TINY = float(np.finfo(np.float64).tiny ** 0.5)
_MOST_SHRUNK = 0.99
_WHOLE = 2**27
"""Bytes of the feedback of a weight that is put together of blocks."""
_AT_A_TIME = 1 << 17
"""Elements that are moved at a time, so that copies are small."""
_PART = 1 << 25
"""Elements of a weight that are looked at together."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of the vectors ``x[groups, :, inputs]`` that a weight is multiplied by."""

    mean: Floats
    """[groups, inputs]"""
    power: npt.NDArray[np.float32]
    """[groups, inputs]: diagonal of the second moment, about the mean if a bias can correct that"""
    feedback: npt.NDArray[np.float32] | None
    """[groups * blocks, inputs / blocks, inputs / blocks], strictly upper: what an error of 1 in column i adds to
    column j; see `cholesky_feedback`. Only inputs of one block, see `in_blocks`, know each other. None if there are too
    many inputs to hold it."""
    variance: npt.NDArray[np.float32]
    """[groups, inputs]: variance of input i given the inputs after it; an error e in column i costs ``variance e^2``"""
    held_back: npt.NDArray[np.float32]
    """[groups, vectors, inputs]: inputs, less the mean, that do not count in the other moments"""

    @classmethod
    def of(cls, stored: Mapping[str, Array]) -> Self:
        """From what the cache holds of a weight."""
        return cls(stored["mean"], stored["power"], stored.get("feedback"), stored["variance"], stored["held"])

    @property
    def blocks(self) -> int:
        """Of inputs that know each other, in each group."""
        return 1 if self.feedback is None else len(self.feedback) // len(self.mean)

    @property
    def has_whole(self) -> bool:
        """Whether `whole` gives anything."""
        groups, inputs = self.mean.shape
        return self.feedback is not None and (self.blocks == 1 or 4 * groups * inputs**2 <= _WHOLE)

    def whole(self) -> npt.NDArray[np.float32] | None:
        """The feedback as ``[groups, inputs, inputs]``; None if it is unknown, or too large."""
        if self.feedback is None or not self.has_whole:
            return None
        if self.blocks == 1:
            return self.feedback
        groups, inputs = self.mean.shape
        width, found = inputs // self.blocks, np.zeros((groups, inputs, inputs), np.float32)
        for number, own in enumerate(self.feedback):
            group, at = number // self.blocks, number % self.blocks * width
            found[group, at : at + width, at : at + width] = own
        return found

    def noise(self, error: Array) -> float:
        """Noise that an error ``[groups, outputs, inputs]`` of the weight makes in the node's outputs.

        It is measured on the held-back inputs, without what a bias corrects; if there are none, it follows from the
        inputs' power, in other units.
        """
        if not self.held_back.shape[1]:
            return float((np.square(error).sum(1) * self.power).sum())
        made = self.held_back @ error.astype(np.float32).swapaxes(1, 2)
        return float(np.square(made, dtype=np.float64).sum())


@dataclass(frozen=True, slots=True)
class Stats:
    """Statistics of one weight."""

    gain: float = 1.0
    """Relative power of the noise in the model's outputs for noise of power 1 in one output of the node; without
    `moments`, in one element of the weight."""
    linear: Linear | None = None
    """How the weight is used; None if only its elements are known."""
    moments: Moments | None = None
    signal: float = 0.0
    """Power of the node's outputs (about their mean if there is a bias), summed over channels; 0 if unknown."""
    peaks: Callable[[], Mapping[str, float]] = dict
    """Gives the largest magnitude of each `Linear.output` of this weight, by name; measured when first called. Empty if
    unknown."""
    row_noise: float = float("inf")
    """The most noise over signal in a row of the weight itself, where the inputs that were measured may not resemble
    real ones."""
    grid: Grid | None = None
    """Of integers that the model came with; None for floats."""


def in_parts(shape: Sequence[int]) -> Iterator[slice]:
    """The outputs of a matrix ``[groups, outputs, inputs]`` in parts. What is made of each is a copy of it, often in
    float64: of a whole table of words, these would be larger than all else in memory."""
    groups, outputs, inputs = shape
    step = max(1, _PART // max(1, groups * inputs))
    yield from (slice(at, at + step) for at in range(0, outputs, step))


def in_blocks(rows: Array, blocks: int) -> Array:
    """``[groups, n, inputs]`` as ``[groups * blocks, n, inputs / blocks]``: blocks of neighbouring inputs."""
    if blocks == 1:
        return rows
    groups, n, width = *rows.shape[:2], rows.shape[2] // blocks
    return rows.reshape(groups, n, blocks, width).swapaxes(1, 2).reshape(groups * blocks, n, width)


def out_of_blocks(rows: Array, blocks: int) -> Array:
    """The inverse of `in_blocks`."""
    if blocks == 1:
        return rows
    groups, n, width = len(rows) // blocks, rows.shape[1], rows.shape[2]
    return rows.reshape(groups, blocks, n, width).swapaxes(1, 2).reshape(groups, n, blocks * width)


def shrinkage(second: Floats, vectors: int) -> Floats:
    """Damping that makes up for few vectors, ``[groups]``: what to add to the diagonal, as a share of its mean.

    Oracle approximating shrinkage (Chen, Wiesel, Eldar & Hero 2010, eq. 23), where ``(1 - r) H + r mean(diag H) I`` is
    nearest to the true moments.

    Arguments:
        second: moments ``[groups, inputs, inputs]`` of so many vectors.
    """
    inputs = second.shape[-1]
    trace, power = np.trace(second, axis1=1, axis2=2), np.einsum("gij,gij->g", second, second)
    apart = (vectors + 1 - 2 / inputs) * np.maximum(power - trace**2 / inputs, _TINY)
    share = np.minimum(((1 - 2 / inputs) * power + trace**2) / apart, _MOST_SHRUNK)
    return np.asarray(share / (1 - share))


def cholesky_feedback(
    second: Floats, damping: npt.ArrayLike
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Feedback and variance for second moments ``H[..., inputs, inputs]``.

    Let ``H^-1 = U^T U`` with U upper. If columns are quantized in order and ``-e_i U_ij / U_ii`` is added to each later
    column j, the output error ``e H e^T`` is the sum of ``e_i^2 / U_ii^2``, one term for each error: OBQ, GPTQ (Frantar
    et al. 2022, eq. 2 and 3). This is the Cholesky factor of LDLQ (Chee et al. 2023).

    Arguments:
        second: contiguous; overwritten, as there is no room for a copy.
        damping: added to the diagonal of H, as a share of its mean, for inputs that the data lacks; broadcast to the
            matrices.

    Raises LinAlgError if H is not positive even so.
    """
    feedback, variance = np.empty(second.shape, np.float32), np.empty(second.shape[:-1], np.float32)
    damping = np.broadcast_to(damping, second.shape[:-2])
    for index in np.ndindex(second.shape[:-2]):
        # H = A A^T with A = U^-1 upper: the Cholesky factor of H with rows and columns in reverse order.
        flipped = second[index]
        _reverse(flipped.reshape(-1))
        flipped.flat[:: len(flipped) + 1] += max(np.trace(flipped) / len(flipped) * damping[index], _TINY)
        upper = np.flip(_inverse_cholesky(flipped))
        pivots = upper.diagonal()
        np.divide(upper, -pivots[:, None], out=feedback[index], casting="same_kind")
        np.fill_diagonal(feedback[index], 0)
        variance[index] = 1 / np.square(pivots)
    return feedback, variance


def _reverse(values: Floats) -> None:
    half = len(values) // 2
    for start in range(0, half, _AT_A_TIME):
        end = min(start + _AT_A_TIME, half)
        first = values[start:end].copy()
        values[start:end] = values[len(values) - end : len(values) - start][::-1]
        values[len(values) - end : len(values) - start] = first[::-1]


def _inverse_cholesky(symmetric: Floats) -> Floats:
    """``L^-1`` for ``L L^T``, in the memory of the argument, which is its own transpose to LAPACK."""
    lower, failed = lapack.dpotrf(symmetric.T, lower=1, clean=1, overwrite_a=1)
    inverse, singular = lapack.dtrtri(lower, lower=1, overwrite_c=1)
    if failed or singular:
        raise np.linalg.LinAlgError("second moments that no damping makes positive")
    return np.asarray(inverse)


def peaks(model: onnx.ModelProto, values: Sequence[str], feeds: Iterable[Mapping[str, Array]]) -> Floats:
    """Largest magnitude of each of these values over all feeds; only the extremes leave the runtime."""
    ends = [
        onnx.helper.make_node(op, [value], [f"{value}@{op}"], keepdims=0)
        for value in values
        for op in ("ReduceMax", "ReduceMin")
    ]
    session = chosen_session(expose(model, [node.output[0] for node in ends], ends))
    largest = np.zeros(len(values))
    for feed in feeds:
        extremes = np.abs(np.array(session.run(None, dict(feed)), np.float64))
        largest = np.maximum(largest, extremes.reshape(-1, 2).max(1))
    return largest


class Probe:
    """Runs a model with replaced weights, in one session.

    Raises what the runtime raises if the model does not run.
    """

    def __init__(self, model: onnx.ModelProto, paths: Collection[str], feeds: Sequence[Mapping[str, Array]]) -> None:
        open_model = onnx.ModelProto()
        open_model.CopyFrom(model)
        tensors = {t.name: t for t in model.graph.initializer}
        for path in paths:
            t = tensors[path]
            open_model.graph.input.append(onnx.helper.make_tensor_value_info(path, t.data_type, list(t.dims)))
        own = {path: elements_of(tensors[path]) for path in paths}
        own = {path: array for path, array in own.items() if array.dtype.kind != "V"}  # of types that numpy has not
        without_defaults(open_model, own)
        self._feeds, self._observed = [{**feed, **own} for feed in feeds], observe(model)
        self._session = chosen_session(expose(open_model, self._observed.values))
        self._wanted = [self._session.run(None, feed) for feed in self._feeds]

    def error(self, weights: Mapping[str, Array]) -> float:
        """Error of the observed values with these weights (see `output_error`), root mean square over the feeds.

        It is 0 where the feeds show nothing.
        """
        errors = []
        for feed, wanted in zip(self._feeds, self._wanted, strict=True):
            got = self._session.run(None, {**feed, **weights})
            error = output_error(wanted, got, self._observed.axes)
            errors += [] if error is None else [error]
        return float(np.sqrt(np.mean(np.square(errors)))) if errors else 0.0
