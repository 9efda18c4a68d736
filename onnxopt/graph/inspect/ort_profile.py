"""The kernels that ONNX Runtime ran, from its profiler's trace."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt.data import Array, session_options

Shape = tuple[int, ...]
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One execution of one node."""

    node: str
    op: str
    inputs: tuple[Shape, ...]
    """Shapes of the inputs that were given."""
    outputs: tuple[Shape, ...]
    ms: float
    """Without the nodes of its subgraphs, which are kernels themselves."""


def trace(
    load: Callable[[onnxruntime.SessionOptions], onnxruntime.InferenceSession],
    feeds: Iterable[Mapping[str, Array]],
    options: onnxruntime.SessionOptions | None = None,
) -> list[list[Kernel]]:
    """The kernels of each run, in the order of their start. Raises what the runtime raises.

    Arguments:
        load: makes a session with the options that it is given.
        feeds: for one run each.
        options: for the session; this switches profiling on.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = options or session_options()
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "trace")
        session = load(options)
        try:
            for one in feeds:
                session.run(None, dict(one))
        finally:
            path = Path(session.end_profiling())  # even if a run fails, or the file outlives its folder
        events = json.loads(path.read_text(encoding="utf-8"))
    starts = sorted(e["ts"] for e in events if e["name"] == "model_run")
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]
    found: list[list[Kernel]] = [[] for _ in starts]
    run = -1
    for event, own in _own_time(nodes):
        while run + 1 < len(starts) and event["ts"] >= starts[run + 1]:
            run += 1
        arguments = event["args"]
        inputs, outputs = (_shapes(arguments.get(f"{side}_type_shape", [])) for side in ("input", "output"))
        name = event["name"].removesuffix(_SUFFIX)
        found[run].append(Kernel(name, arguments["op_name"], inputs, outputs, own / 1e3))
    return found


def _own_time(events: list[dict[str, Any]]) -> list[tuple[dict[str, Any], float]]:
    """Events in order of time, each with its own microseconds, less those of the events inside it."""
    ordered = sorted(events, key=lambda e: (e["ts"], -e["dur"]))
    own = [float(e["dur"]) for e in ordered]
    around: list[int] = []
    for i, event in enumerate(ordered):
        # Ends are compared, as times are whole microseconds and the next node may start in the one where this ends.
        while around and event["ts"] + event["dur"] > ordered[around[-1]]["ts"] + ordered[around[-1]]["dur"]:
            around.pop()
        if around and ordered[around[-1]]["args"]["op_name"] in ("If", "Loop", "Scan"):
            own[around[-1]] -= event["dur"]
        if event["args"]["op_name"] in ("If", "Loop", "Scan"):
            around.append(i)
    return list(zip(ordered, (max(0.0, us) for us in own), strict=True))


def _shapes(described: list[dict[str, list[int]]]) -> tuple[Shape, ...]:
    return tuple(tuple(shape) for entry in described for shape in entry.values())
