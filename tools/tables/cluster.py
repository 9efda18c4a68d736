"""How long a large model takes on a cluster: a model of the time, from pieces that are measured on one core."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import numpy as np
import onnx

from common.pages import machine, markdown
from onnxopt import native
from onnxopt.build.container import CHUNK
from onnxopt.calibration.stats import cholesky_feedback
from onnxopt.data import one_core, quiet_session
from tables import Scope, Table

WORKERS = 8, 64, 512
NETWORK = 1.25e9
"""Bytes a second that reach or leave the coordinator: 10 Gbit."""
LAYERS, HIDDEN, INNER, WORDS = 20, 2048, 8192, 32000
"""A decoder: four matrices ``HIDDEN x HIDDEN`` and two ``HIDDEN x INNER`` in each layer."""
CALIBRATION, VALIDATION, TOKENS, TRIALS = 1024, 4096, 128, 6
"""Samples, tokens of each, and tries of the search."""
CHUNKS, SHARDS, ROWS, ROWS_A_COLUMN = 24, 16, 32768, 16
"""Chunks of 8 samples for gradients; shards of the calibration data; input vectors of a weight. See
`onnxopt.calibration`."""
MAX_RAM = 4 * 2**30
"""What `--max-ram` says: half of it holds second moments, and the data is read as often as they fill that."""
CORES = 8
"""Of the coordinator, which codes weights on all of them."""
BITS = 4.0
"""Of a weight in a trial's file."""
BACKWARD = 3
"""Forward passes that a gradient takes."""


@dataclass(frozen=True, slots=True)
class Pieces:
    """What was measured, on one core."""

    forward: float
    """Seconds for a multiplication by a weight, in the runtime."""
    moment: float
    """... for one in a second moment."""
    factor: float
    """... for ``columns^3`` in its Cholesky factor and the inverse of that."""
    quantise: float
    """... for a weight of a row of `HIDDEN`, with feedback and without."""
    code: float
    """... for a weight, with every codec that applies."""
    check: float
    """... for a weight's value and its checksum, which the coordinator makes."""


def measure(scope: Scope) -> Pieces:
    """Measures the pieces."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((TOKENS, HIDDEN), np.float32)
    rows = rng.standard_normal((4096, HIDDEN), np.float32)
    w = rng.standard_normal((1, 64, HIDDEN))
    second = np.cov(rng.standard_normal((1024, 2048)))[None]
    feedback, variance = cholesky_feedback(np.cov(rows.T)[None], 0.01)
    q = np.rint(rng.laplace(scale=2.0, size=(CHUNK // HIDDEN, HIDDEN))).astype(np.int32)
    step, price = np.full((1, 64), 0.2), np.full((1, 64), 1e-3)
    with one_core():
        session = quiet_session(_product())
        forward = _seconds(lambda: session.run(None, {"x": x})) / (x.size * INNER)

    def quantise() -> None:
        for one in (feedback, None):
            native.quantize(w, one, variance, step, price, native.QuantizerOptions())

    def check() -> None:
        zlib.crc32(native.file_bytes(q.astype(np.float32) * np.float32(0.1)))

    return Pieces(
        forward,
        _seconds(lambda: rows.T @ rows) / (rows.size * HIDDEN),
        _seconds(lambda: cholesky_feedback(second.copy(), 0.01)) / 1024**3,
        _seconds(quantise) / w.size,
        _seconds(lambda: native.encode(q)) / q.size,
        _seconds(check) / q.size,
    )  # fmt: skip


def _product() -> bytes:
    weight = np.zeros((HIDDEN, INNER), np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "product",
        [helper.make_tensor_value_info("x", kind, [TOKENS, HIDDEN])],
        [helper.make_tensor_value_info("y", kind, [TOKENS, INNER])], [onnx.numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(made.SerializeToString())


def _seconds(do: Callable[[], object]) -> float:
    """The least processor time of some runs."""
    do()
    found = []
    for _ in range(5):
        before = time.process_time()
        do()
        found.append(time.process_time() - before)
    return min(found)


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of the run: what is divided, over how many tasks at most, what is moved, and what is not divided."""

    name: str
    work: float
    """Seconds on one core."""
    tasks: float
    moved: Callable[[int], float]
    """Bytes through the coordinator, for a number of workers."""
    alone: float = 0.0
    """Seconds of the coordinator."""

    def seconds(self, workers: int) -> tuple[float, str]:
        """How long it takes, and what most of that is."""
        parts = {"work": self.work / min(workers, self.tasks), "moving": self.moved(workers) / NETWORK,
                 "coordinator": self.alone}  # fmt: skip
        return sum(parts.values()), max(parts, key=lambda name: parts[name])


def phases(found: Pieces) -> list[Phase]:
    """The run of a decoder of a billion weights."""
    columns = [HIDDEN] * (5 * LAYERS) + [INNER] * LAYERS
    weights = LAYERS * (4 * HIDDEN**2 + 2 * HIDDEN * INNER)
    moments = 8.0 * sum(n**2 for n in columns)
    tokens = CALIBRATION * TOKENS
    rows = sum(min(tokens, max(ROWS, ROWS_A_COLUMN * n)) * n**2 for n in columns)
    matrices, model = len(columns), 4.0 * weights
    outputs = 4.0 * VALIDATION * TOKENS * WORDS
    factors = sum(n**3 for n in columns)
    passes = ceil(moments / (MAX_RAM / 2))
    return [
        Phase("calibration: sums", passes * weights * tokens * found.forward + rows * found.moment, SHARDS,
              lambda workers: model * min(workers, SHARDS) + moments * SHARDS),
        Phase("calibration: factors", factors * found.factor, factors / INNER**3, lambda workers: 1.5 * moments),
        Phase("gains", BACKWARD * weights * CHUNKS * 8 * TOKENS * found.forward, CHUNKS,
              lambda workers: model * max(0, min(workers, CHUNKS) - SHARDS) + 0.5 * moments * min(workers, CHUNKS)),
        Phase(f"{TRIALS} trials: quantization", TRIALS * weights * found.quantise * (1 + (INNER / HIDDEN - 1) / 6),
              matrices / 1.5, lambda workers: TRIALS * (model + 0.5 * moments)),
        Phase(f"{TRIALS} trials: coding", 0.0, 1, lambda workers: 0.0,
              TRIALS * weights * (found.code / CORES + found.check)),
        Phase(f"{TRIALS} trials: validation", TRIALS * weights * VALIDATION * TOKENS * found.forward, VALIDATION,
              lambda workers: TRIALS * (workers * weights * BITS / 8 + outputs)),
    ]  # fmt: skip


def render(found: Pieces) -> str:
    """The pieces, and the time by phase."""
    per = {"multiplication by a weight": found.forward, "multiplication in a moment": found.moment,
           "columns^3 of a factor": found.factor, "weight quantized": found.quantise, "weight coded": found.code,
           "value and checksum of a weight": found.check}  # fmt: skip
    pieces = [[name, f"{1e9 * seconds:.3g} ns"] for name, seconds in per.items()]
    every = phases(found)
    rows = [[one.name, *(_cell(*one.seconds(workers)) for workers in WORKERS)] for one in every]
    totals = [sum(one.seconds(workers)[0] for one in every) for workers in WORKERS]
    rows.append(["together", *(f"{seconds / 60:.0f} min" for seconds in totals)])
    return "\n\n".join((
        machine(),
        markdown(["piece, on one core", "takes"], "lr", pieces),
        markdown(["phase", *(f"{workers} workers" for workers in WORKERS)], "lrrr", rows),
    ))  # fmt: skip


def _cell(seconds: float, most: str) -> str:
    return f"{seconds / 60:.1f} min, {most}"


TABLES = (Table("cluster", "docs/cluster.md", 2, measure, render),)
