"""Time by type of operator and by node, from the runtime's profiler."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import onnxruntime

from onnxopt import runtime
from onnxopt.data import Array, session_options
from onnxopt.graph import Kernel, trace

_WARM_UP, _LEAST, _MOST, _SECONDS = 3, 3, 100, 0.5
"""Warm-up runs, fewest and most runs that count, and the seconds for the runs beyond the fewest."""


@dataclass(frozen=True, slots=True)
class OpTime:
    """All nodes of one operator in the runtime's optimized graph."""

    op: str
    nodes: int
    ms: float
    """Of one run, median. Nodes inside a branch or loop do not count again for the branch."""
    share: float
    """Of the time in all nodes, 0 to 1."""


def time_by_node(model: bytes, feeds: Mapping[str, Array]) -> dict[str, float]:
    """Milliseconds of every node of a plain model, by its name in the runtime's optimized graph; medians over runs.

    Raises what the runtime raises.
    """
    kept = _kept(lambda options: onnxruntime.InferenceSession(model, options), feeds, session_options())
    times: defaultdict[str, list[float]] = defaultdict(list)
    for run in kept:
        for kernel in run:
            times[kernel.node].append(kernel.ms)
    return {node: median(ms) for node, ms in times.items()}


def time_by_op(path: Path, feeds: Mapping[str, Array], threads: int | None) -> tuple[OpTime, ...]:
    """Time by operator of a plain or compressed model, slowest first; raises as `runtime.load` and the runtime do."""
    options = session_options()
    if threads is not None:
        options.intra_op_num_threads = threads

    kept = _kept(lambda o: runtime.load(path, o), feeds, options)
    nodes: defaultdict[str, set[str]] = defaultdict(set)
    for kernel in (kernel for run in kept for kernel in run):
        nodes[kernel.op].add(kernel.node)
    # Medians, because an interruption of a node may take longer than a run.
    ms = {op: median(sum(kernel.ms for kernel in run if kernel.op == op) for run in kept) for op in nodes}
    total = sum(ms.values()) or 1.0
    return tuple(OpTime(op, len(nodes[op]), ms[op], ms[op] / total) for op in sorted(ms, key=lambda op: -ms[op]))


def _kept(
    load: Callable[[onnxruntime.SessionOptions], onnxruntime.InferenceSession],
    feeds: Mapping[str, Array],
    options: onnxruntime.SessionOptions,
) -> list[list[Kernel]]:
    """The kernels of the runs that count."""

    def runs() -> Iterator[Mapping[str, Array]]:
        yield from [feeds] * (_WARM_UP + _LEAST)
        deadline = time.monotonic() + _SECONDS
        for _ in range(_MOST - _LEAST):
            if time.monotonic() > deadline:
                return
            yield feeds

    return trace(load, runs(), options)[_WARM_UP:]
