"""First and second moments of layer inputs, accumulated in one pass over the data.

The inputs are never all in memory: each chunk is added to the sums of its shard. Shards are cut by the data alone, and
their sums are added in order, so the moments do not depend on where, and beside what, a shard was summed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from zlib import crc32

import numpy as np
import numpy.typing as npt

from onnxopt.calibration.budget import Use
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.chunks import HOLD_BACK, Chunks, Shard
from onnxopt.calibration.second import Pairs, Squares
from onnxopt.calibration.stats import Floats, cholesky_feedback, in_blocks, out_of_blocks, shrinkage
from onnxopt.data import Batch, chosen_session
from onnxopt.encoding import Array
from onnxopt.graph import Graph, Linear, expose
from onnxopt.pool import Pool, Shared, Threads

DAMPING = 0.01
"""Of second moments; see `cholesky_feedback`."""
NOISE = 0.03
"""Relative noise at which gains are measured: small enough to add up, large enough for float32 to show."""
PASS = 0.9
"""Share of measuring moments that the pass over the data takes, as it is told."""
_HELD = 256
"""Input vectors of one weight that are held back for validation."""
_FEW = 10
"""Vectors for each input, below which moments fit the vectors that they were measured on better than others."""
_MOST_OPTIMISTIC, _TINY = 16.0, 1e-300
_NARROWEST = 64
"""Inputs of a block, at least."""
_INPUTS = (1e-15, 1e15)
"""Range of the largest input of a layer: float32 holds its square."""
_SIGNALS = (1e-30, 1e30)
"""Range of the power of a layer's outputs."""


def key(path: str) -> str:
    """A file name for a weight, whose path may hold any character; the length separates paths of equal checksums."""
    return f"{crc32(path.encode()):08x}-{len(path)}"


def moment_bytes(graph: Graph, path: str, linear: Linear, most: float = inf, widest: int | None = None) -> int:
    """Bytes of the sums of a weight's second moment, of blocks of inputs where `blocks_of` says so."""
    groups, _, inputs = map(int, linear.matrix(graph.values(path)).shape)
    blocks = blocks_of(groups, inputs, most, widest)
    return 8 * groups * inputs if blocks is None else Pairs.size(groups * blocks, inputs // blocks)


def blocks_of(groups: int, inputs: int, most: float, widest: int | None) -> int | None:
    """Blocks of inputs, equally wide, of which second moments ``[groups, blocks, width, width]`` are measured: as few
    as may be. None if they would be too narrow.

    Arguments:
        most: bytes of the second moments.
        widest: inputs of a block. A number of inputs that cannot be divided so is not.
    """
    for blocks in range(-(-inputs // (widest or inputs)), inputs // _NARROWEST + 1):
        if inputs % blocks == 0 and 8 * groups * inputs * (inputs // blocks) <= most:
            return blocks
    return 1 if 8 * groups * inputs**2 <= most else None


def white_noise(path: str, w: Floats) -> Floats:
    """White noise of `NOISE` times the weight's RMS, always the same for a path."""
    rms = float(np.sqrt(np.square(w).mean()))
    return np.random.default_rng(crc32(path.encode())).standard_normal(w.shape) * (NOISE * rms)


@dataclass(frozen=True)
class Subject:
    """A model whose weights are measured on data."""

    graph: Shared[Graph]
    uses: Mapping[str, tuple[Linear, ...]]
    """Each weight's uses."""
    chunks: Chunks
    samples: int
    """Number of samples in the data."""
    max_ram: int
    """Bytes; of a second moment that takes more than half, only blocks along the diagonal are measured."""


def measure_moments(
    subject: Shared[Subject], paths: Sequence[str], cache: Cache, pool: Pool, tick: Callable[[float], None]
) -> None:
    """Measures the inputs of these weights in one pass over the data and puts the result into the cache.

    Arguments:
        tick: told the share that is done: of the pass, up to `PASS`, then of what is made of the sums.

    Nothing is put there for a weight whose inputs or outputs are too large or too small for float32; `is_measured` says
    so.
    """
    shards, done = subject.value.chunks.shards(), itertools.count(1)
    seen = 0

    def summed(samples: int) -> None:
        nonlocal seen
        seen += samples
        tick(PASS * min(1.0, seen / max(1, subject.value.samples)))

    each = partial(_summed, subject, tuple(paths), told=summed if pool.here else None)
    sums: dict[str, _Sums] = {}
    powers: dict[tuple[str, int], float] = {}  # of each weight in each law: its first shard's
    for shard, found in zip(shards, pool.stream(each, shards), strict=True):
        if not pool.here:
            tick(PASS * next(done) / len(shards))
        for path in paths:
            power = powers.get((path, shard.law)) or found[path].power
            powers[path, shard.law] = power
            if path in sums:
                sums[path].include(found.pop(path), power)
            else:
                sums[path] = found.pop(path)
            if shard.number + 1 < len(shards):
                sums[path].set_aside(cache)
    # Here, each is put there before the next one is made: those of a pass are as large as its sums.
    made = pool.map(partial(_stored, subject, cache if pool.here else None), ((path, sums.pop(path)) for path in paths))
    for count, (name, arrays) in enumerate(made, 1):
        if not pool.here:
            cache.put(name, **arrays)
        tick(PASS + (1 - PASS) * count / len(paths))


def _summed(
    subject: Shared[Subject], paths: Sequence[str], shard: Shard, told: Callable[[int], None] | None = None
) -> dict[str, _Sums]:
    """The sums of these weights over one shard. `told` is told the samples of each chunk."""
    one = subject.value
    graph, uses = one.graph.value, {path: one.uses[path] for path in paths}
    inputs = {value.name for value in graph.model.graph.input}
    names = sorted({linear.x for linears in uses.values() for linear in linears} - inputs)
    session = chosen_session(expose(graph.model, names)) if names else None
    sums = {
        path: _Sums(graph.values(path), linears, shard.seed(crc32(path.encode())), one.samples, one.max_ram // 2,
                    one.chunks.use)
        for path, linears in uses.items()
    }  # fmt: skip
    for index, feeds in enumerate(one.chunks.of(shard)):
        made = session.run(names, feeds) if session else []
        values = {**feeds, **dict(zip(names, made, strict=True))}
        add = partial(_Sums.add, values=values, size=Batch(feeds).size, hold_back=index % HOLD_BACK == 1)
        list(Threads().map(add, sums.values()))
        del made, values, add  # before the next ones: they fill a chunk's share of memory
        if told:
            told(Batch(feeds).size)
    return sums


def is_measured(cache: Cache, path: str) -> bool:
    """Whether the cache knows a weight's inputs, or that they cannot be used."""
    return key(path) in cache or _unfit(path) in cache


def _unfit(path: str) -> str:
    return f"{key(path)}-unfit"


def _within(bounds: tuple[float, float], value: float) -> bool:
    return value == 0 or bounds[0] <= value <= bounds[1]


def _stored(
    subject: Shared[Subject], cache: Cache | None, of: tuple[str, _Sums]
) -> tuple[str, dict[str, npt.ArrayLike]]:
    """What the cache is to hold of one weight, and under which name; nothing if it is put into `cache`."""
    name, arrays = _made(subject, of)
    if cache is None:
        return name, arrays
    cache.put(name, **arrays)
    return name, {}


def _made(subject: Shared[Subject], of: tuple[str, _Sums]) -> tuple[str, dict[str, npt.ArrayLike]]:
    """What the cache is to hold of one weight, and under which name."""
    path, sums = of
    graph, linears = subject.value.graph.value, subject.value.uses[path]
    w = linears[0].matrix(graph.values(path).astype(np.float64))
    if not _within(_INPUTS, sums.largest):
        return _unfit(path), {"largest": sums.largest}
    centred = linears[0].bias is not None and len(linears) == 1
    mean, second = sums.moments(centred)
    held = sums.held(mean if centred else 0 * mean)
    signal = max(0.0, _power(in_blocks(w, sums.blocks), second, held, sums.blocks))
    if not _within(_SIGNALS, signal):
        return _unfit(path), {"signal": signal}
    arrays: dict[str, npt.ArrayLike] = {}
    if second.ndim == 3:
        power = np.diagonal(second, axis1=1, axis2=2).copy()
        arrays["feedback"], variance, arrays["optimism"] = _fitted(second, sums.count, held)
    else:
        power = second
        variance = power + DAMPING * power.mean(1, keepdims=True)
    floor = max(float(variance.max()) * 1e-9, float(np.finfo(np.float32).tiny))  # the inputs may all be 0
    groups = len(w)
    arrays |= {
        "mean": mean.reshape(groups, -1),
        "variance": np.maximum(variance, floor).astype(np.float32).reshape(groups, -1),
        "power": np.maximum(power, floor).astype(np.float32).reshape(groups, -1),
        "held": out_of_blocks(held, sums.blocks), "signal": signal,
    }  # fmt: skip
    return key(path), arrays


def _power(w: Floats, second: Floats, held: Array, blocks: int) -> float:
    """Power of the outputs ``w x``, summed over channels; all but the second moments are in blocks, too.

    Blocks do not know how the inputs of two of them go together. So it is that of the vectors that are held back then.
    """
    if blocks > 1 and held.shape[1]:
        made = out_of_blocks(held, blocks).astype(np.float64) @ out_of_blocks(w, blocks).swapaxes(1, 2)
        return float(np.square(made).sum() / held.shape[1])
    if second.ndim == 3:
        (rows, unit), (moments, square) = _in_float32(w), _in_float32(second)
        return float(np.sum(rows @ moments * rows, dtype=np.float64)) * unit**2 * square
    return float((np.square(w) * second[:, None]).sum())


def _in_float32(values: Floats) -> tuple[npt.NDArray[np.float32], float]:
    """The values relative to their largest magnitude, and that: float32 does not hold every power."""
    unit = _magnitude(values) or 1.0
    found = np.empty(values.shape, np.float32)
    return np.divide(values, unit, out=found, casting="same_kind"), unit


def _fitted(second: Floats, vectors: int, held: Array) -> tuple[Array, Array, float]:
    """Feedback, variance, and how much more noise it makes on vectors held back than on those of the moments.

    Where there are few vectors, the damping that makes the least noise on those held back is taken: the usual one, as
    much as `shrinkage` says, or between.
    """
    inputs = second.shape[1]
    if vectors >= _FEW * inputs or not held.shape[1]:
        return *cholesky_feedback(second, DAMPING), 1.0
    mean = np.trace(second, axis1=1, axis2=2) / inputs
    most = np.maximum(DAMPING, shrinkage(second, vectors))
    least, found = np.inf, None
    for share in (0.0, 0.5, 1.0):
        damping = DAMPING ** (1 - share) * most**share
        feedback, variance = cholesky_feedback(second.copy(), damping)
        rows = held - held @ feedback.swapaxes(1, 2)
        noise = float(np.square(rows, dtype=np.float64).sum()) / held.shape[1]
        if found is None or noise < least:
            squares = np.square(feedback, dtype=np.float64).sum((1, 2)) + inputs  # of I - F
            seen = float((variance.sum(1, dtype=np.float64) - damping * mean * squares).sum())
            optimism = max(1.0, noise / max(seen, noise / _MOST_OPTIMISTIC, _TINY))
            least, found = noise, (feedback, variance, optimism)
    assert found is not None
    return found


def _magnitude(rows: Array) -> float:
    """The largest magnitude among the finite elements; 0 without any."""
    largest = max(float(rows.max()), -float(rows.min())) if rows.size else 0.0
    return largest if np.isfinite(largest) else float(np.abs(rows[np.isfinite(rows)]).max(initial=0))


class _Sums:
    """Sums over the input vectors of one weight: of one shard, or of several in order."""

    def __init__(
        self, weight: Array, linears: Sequence[Linear], seed: Sequence[int], samples: int, most: int, use: Use
    ) -> None:
        self._linears, self._samples = linears, samples
        self._random = np.random.default_rng(seed)
        groups, _, inputs = linears[0].matrix(weight).shape
        self._most = use.rows(inputs)
        blocks = blocks_of(groups, inputs, most, use.widest)
        self.blocks = blocks or 1
        """Sums are of blocks of inputs, each a group of its own."""
        groups, inputs = groups * self.blocks, inputs // self.blocks
        # Subtracted from every vector: products in float32 lose a variance that is small against the mean.
        self._shift: Array | None = None
        self.count = 0
        """Vectors."""
        self.largest = 0.0
        """Magnitude of the largest input. If it is out of `_INPUTS`, the sums mean nothing."""
        self._total: Floats = np.zeros((groups, inputs))
        self._second: Pairs | Squares = (Pairs if blocks else Squares)(groups, inputs)
        self._held: list[Array] = []
        self.power = 0.0
        """Mean square of the first vectors."""

    def add(self, values: Mapping[str, Array], size: int, hold_back: bool) -> None:
        most = _HELD * HOLD_BACK if hold_back else self._most
        for linear in self._linears:
            rows = linear.inputs(values[linear.x], max(16, -(-most * size // self._samples)), self._random)
            self.largest = max(self.largest, _magnitude(rows))
            if self.largest > _INPUTS[1]:
                return
            rows = in_blocks(rows.astype(np.float32, copy=False), self.blocks)
            rows = rows[:, np.isfinite(rows).all((0, 2))]  # overflow, or a mask of infinities, does not count
            if not self.power:
                self.power = float(np.square(rows, dtype=np.float64).mean()) if rows.size else 0.0
            if hold_back:
                self._held.append(rows)
                continue
            if self._shift is None and rows.size:
                self._shift = rows.mean(1, keepdims=True, dtype=np.float64).astype(np.float32)
            if self._shift is not None:
                rows -= self._shift
            self.count += rows.shape[1]
            self._total += rows.sum(1, dtype=np.float64)
            self._second.add(rows)

    def include(self, later: _Sums, power: float) -> None:
        """Adds the sums of the next shard, which it consumes. They are scaled to this one's power, so that a law of
        large values does not drown the others.

        Arguments:
            power: of the law of that shard.
        """
        scale = (self.power / power) ** 0.5 if self.power and power else 1.0
        self.largest = max(self.largest, later.largest)
        self._held += later._held if scale == 1 else [rows * np.float32(scale) for rows in later._held]
        if later._shift is None:
            return
        total, shift = later._total, later._shift.astype(np.float64)
        if scale != 1:
            total, shift = total * scale, shift * scale
        if self._shift is None:
            self._shift = shift.astype(np.float32)
        off = (shift - self._shift)[:, 0]  # x - a = (x - b) + (b - a)
        self._second.include(later._second, scale, total + later.count / 2 * off, off)
        self._total += total + later.count * off
        self.count += later.count

    def set_aside(self, cache: Cache) -> None:
        """Leaves the sums in a file until the next shard's are included."""
        self._second.set_aside(cache)

    def moments(self, centred: bool) -> tuple[Floats, Floats]:
        """Mean, and second moments of each block (or their diagonals), about the mean if `centred`. Uses up the
        sums."""
        count = max(1, self.count)
        mean = off = self._total / count
        if self._shift is not None:
            mean = off + self._shift[:, 0]
        return mean, self._second.averaged(count, [(-1, off), *([] if centred else [(1, mean)])])

    def held(self, mean: Floats) -> Array:
        """Held-back vectors ``[groups * blocks, vectors, inputs / blocks]`` less `mean`."""
        if not self._held:
            return np.zeros((*self._total.shape[:1], 0, self._total.shape[1]), np.float32)
        rows = np.concatenate(self._held, 1)
        chosen = np.linspace(0, rows.shape[1] - 1, min(_HELD, rows.shape[1])).astype(int)
        return (rows[:, chosen] - mean[:, None]).astype(np.float32)
