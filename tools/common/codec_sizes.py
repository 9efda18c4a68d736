"""Sizes of the codecs, on the integers of real models.

Every weight of two or more dimensions is scaled so that each output's largest magnitude becomes 2^(b - 1) - 1, rounded
to integers, cut into chunks as the container cuts them, and coded. Sizes are compared with the *order-0 entropy*,
n log2 n - sum c log2 c bits for n integers of which c are alike, tensor by tensor: no coder that takes them one by one
with one table can be smaller, even if that table costs nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from common import realdata
from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import matrix_view
from onnxopt.graph import Graph, normalise

Integers = npt.NDArray[np.int32]

LARGE = 100_000
"""Weights from which on a tensor's `rans` is held against the entropy by itself."""


@dataclass(frozen=True, slots=True, order=True)
class Setting:
    """How weights become integers."""

    zeros: float
    """Share of each tensor's weights, the smallest, that is set to zero; the others are kept from becoming zero."""
    bits: int

    def __str__(self) -> str:
        return f"{self.bits} bits" + (f", {self.zeros:.0%} 0" if self.zeros else "")


@dataclass(frozen=True, slots=True)
class Size:
    """One model's, or one tensor's, bytes under one setting."""

    weights: int
    entropy: float
    """Order-0, of the counts seen."""
    corrected: float
    """With (K - 1) / 2 nats more for each tensor's K distinct integers (G. Miller, 1955): counts of few samples look
    more predictable than what they are drawn from, by about so much."""
    chosen: int
    """By the writer, of all codecs, tables included."""
    rans: float
    """Bytes of `rans`, tables included, over order-0, of the worst tensor above `LARGE`; 0 where there is none."""

    @property
    def ratio(self) -> float:
        """The writer's choice over order-0."""
        return self.chosen / self.entropy

    @property
    def corrected_ratio(self) -> float:
        """The writer's choice over order-0 as corrected."""
        return self.chosen / self.corrected

    @property
    def bits(self) -> float:
        """Of the writer's choice, for each weight."""
        return 8 * self.chosen / self.weights


# ---- integers ------------------------------------------------------------------------------------------------------


def weights(path: Path) -> Iterator[tuple[realdata.Array, int]]:
    """Every weight of two or more dimensions in a model file, and the axis of its outputs.

    8-bit integers of a model that is quantized already are taken as they are, their outputs along axis 0.
    """
    model = onnx.load(path)
    normalise(model)
    graph = Graph(model)
    for site in graph.sites():
        if site.axis is not None and len(site.shape) > 1:
            yield graph.values(site.path), site.axis
    for tensor in model.graph.initializer:
        if tensor.data_type in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) and len(tensor.dims) > 1:
            yield np.asarray(numpy_helper.to_array(tensor)), 0


def integers(weight: realdata.Array, axis: int, setting: Setting) -> Integers:
    """The matrix that the container would hold for a weight whose outputs lie along `axis`."""
    values = weight.astype(np.float64)
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(others, keepdims=True)
    q = np.rint(values / np.where(largest, largest, 1) * (2 ** (setting.bits - 1) - 1))
    if setting.zeros:
        magnitude = np.abs(values)
        kept = magnitude > np.quantile(magnitude, setting.zeros)
        q = np.where(kept, np.sign(values) * np.maximum(np.abs(q), 1), 0)
    return np.ascontiguousarray(q.reshape(matrix_view(values.shape, axis)), np.int32)


def chunks(q: realdata.Array) -> list[realdata.Array]:
    """Cut as the container's writer does it."""
    rows = max(1, container.CHUNK // q.shape[1])
    return [q[at : at + rows] for at in range(0, len(q), rows)]


# ---- sizes ---------------------------------------------------------------------------------------------------------


def entropy(q: Integers) -> tuple[float, int]:
    """Order-0 bytes of all integers together, and the number of distinct ones."""
    counts = np.bincount((q - q.min()).ravel())
    counts = counts[counts > 0]
    return float(q.size * np.log2(q.size) - (counts * np.log2(counts)).sum()) / 8, len(counts)


def tensor_size(weight: realdata.Array, axis: int, setting: Setting) -> Size:
    """One tensor's bytes."""
    q = integers(weight, axis, setting)
    order0, distinct = entropy(q)
    first, *rest = chunks(q)
    codec, data = native.encode(first)
    chosen = len(data) + sum(len(native.encode(part, codec)[1]) for part in rest)
    rans = 0.0
    if q.size > LARGE:
        size = chosen if codec == "rans" else sum(len(native.encode(part, "rans")[1]) for part in chunks(q))
        rans = size / order0
    return Size(q.size, order0, order0 + (distinct - 1) / 2 / np.log(2) / 8, chosen, rans)


def total(sizes: Sequence[Size]) -> Size:
    """Of a model, from its tensors'."""
    return Size(
        sum(s.weights for s in sizes),
        sum(s.entropy for s in sizes),
        sum(s.corrected for s in sizes),
        sum(s.chosen for s in sizes),
        max(s.rans for s in sizes),
    )


def model_sizes(path: Path, settings: Sequence[Setting]) -> dict[Setting, Size]:
    """A model's bytes under each setting, on all cores."""
    found = list(weights(path))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs = {s: [pool.submit(tensor_size, weight, axis, s) for weight, axis in found] for s in settings}
        return {s: total([job.result() for job in jobs[s]]) for s in settings}


def speed_inputs() -> dict[str, Integers]:
    """Integers to measure speeds on, one chunk each."""
    scale = 16 / math.sqrt(2 * math.pi * math.e)
    normal = np.rint(np.random.default_rng(0).normal(0, scale, (1024, 1024))).astype(np.int32)
    found = {"normal, 4 bits of entropy": normal}
    source = realdata.MODELS / "resnet50v2_imagenette.onnx"
    if source.is_file():
        weight, axis = max(weights(source), key=lambda found: found[0].size)
        for setting in (Setting(0, 4), Setting(0, 8), Setting(0.9, 5)):
            found[f"ResNet-50's largest, {setting}"] = chunks(integers(weight, axis, setting))[0]
    return found
