"""Plan, apply, optimize: a model in, a small model out."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import onnx

from onnxopt import container, evaluate, manager, native, runtime
from onnxopt.cleanup import clean
from onnxopt.data import CannotRun, input_scale, quiet_session
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.events import Event
from onnxopt.graph import Graph, Source, is_compressed, normalise, read, split, strip, wrap, write_atomically
from onnxopt.leaf import Leaf, values_of
from onnxopt.plan import Plan

DEFAULT_ERROR = 0.05
"""Noise over signal in the outputs on random inputs, where nothing else is asked for."""

Progress = Callable[[str, float], None]
"""Told what is being done and the share of the work that is done, 0 to 1."""


LARGEST_INLINE = 2**31 - 2**24
"""Bytes of a container that fits into a protobuf with the outer graph; a larger one is external data."""

_PROBED, _CODED = 0.5, 0.95  # shares of the work that are done by then


@dataclass(frozen=True, slots=True)
class Result:
    """What `optimize` did."""

    source: Path
    output: Path
    bytes_before: int
    """Of the source file with its external data."""
    bytes_fp16: int
    """What the source would be with every float32 weight in float16."""
    bytes_after: int
    events: tuple[Event, ...]
    cleaned: dict[str, int]
    """Nodes that each clean-up removed or changed."""
    output_error: float | None
    """Noise over signal of the outputs on random inputs; None where `not_compared` says why."""
    not_compared: str
    not_probed: str = field(default="", kw_only=True)
    """Why all weights were held to be equally sensitive; empty where sensitivities were measured."""
    unchanged: bool
    """Compressed it would be no smaller: the output is a copy of the source."""
    seconds: float
    peak_memory: int | None
    """Bytes of RAM that this process has held at most so far; None where the system does not say."""
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A model ready for passes: the graph of what will be compressed, and what stays around it."""

    graph: Graph
    outside: list[onnx.NodeProto]
    tensors: list[onnx.TensorProto]
    cleaned: dict[str, int]


def plan(
    model: str | os.PathLike[str],
    error: float = DEFAULT_ERROR,
    lossless: bool = False,
    progress: Progress | None = None,
) -> Plan:
    """The decisions for a model, without carrying them out.

    Arguments:
        model: path of an ONNX file.
        error: noise over signal that quantization may cause in the outputs, measured on random inputs.
        lossless: keep every weight bit for bit instead.

    Raises OnnxoptError where the model cannot be read.
    """
    source = _plain(model)
    graph = _prepare(source.model, lossless).graph
    return _plan(source, graph, error, lossless, progress or _silent)[0]


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    error: float = DEFAULT_ERROR,
    lossless: bool = False,
    prefer: str = "balanced",
    progress: Progress | None = None,
) -> Result:
    """Compresses the model at `model` into the file `output`: `plan` and `apply` in one go.

    Arguments:
        model: path of an ONNX file.
        output: path of the file to write; written whole or not at all.
        error: noise over signal that quantization may cause in the outputs, measured on random inputs.
        lossless: keep every weight bit for bit instead.
        prefer: "smallest", "balanced" or "fastest" to decode.
        progress: told what is being done.

    Raises OnnxoptError where the model cannot be read or the result cannot be written or run.
    """
    started = time.monotonic()
    source = _plain(model)
    ready = _prepare(source.model, lossless)
    progress = progress or _silent
    decided, not_probed = _plan(source, ready.graph, error, lossless, progress)
    result = _apply(source, ready, decided, Path(output), prefer, progress, started)
    return replace(result, not_probed=not_probed)


def apply(
    model: str | os.PathLike[str],
    plan: Plan,
    output: str | os.PathLike[str],
    prefer: str = "balanced",
    progress: Progress | None = None,
) -> Result:
    """Carries out a plan that `plan` made, perhaps edited by hand. Arguments and errors as for `optimize`.

    A plan without steps is lossless.
    """
    started = time.monotonic()
    source = _plain(model)
    if plan.model_sha256 != source.sha256:
        raise OnnxoptError(
            f"{source.path}: the plan is for another model (sha256 {plan.model_sha256[:12]}..., "
            f"this one has {source.sha256[:12]}...); make a new one with `onnxopt plan`"
        )
    ready = _prepare(source.model, lossless=not plan.steps)
    return _apply(source, ready, plan, Path(output), prefer, progress or _silent, started)


def _peak_memory() -> int | None:
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def _silent(what: str, share: float) -> None:
    pass


def _plain(model: str | os.PathLike[str]) -> Source:
    source = read(model)
    if is_compressed(source.model):
        raise OnnxoptError(f"{source.path}: is compressed already; `onnxopt decompress` gives the plain model back")
    return source


def _prepare(model: onnx.ModelProto, lossless: bool) -> _Prepared:
    """Normalised first, so that clean-ups see every constant; where every bit counts, not cleaned at all."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    normalise(copy)
    cleaned, removed = (copy, {}) if lossless else clean(copy)
    inner, outside, tensors = split(cleaned)
    return _Prepared(Graph(inner), outside, tensors, removed)


def _plan(source: Source, graph: Graph, error: float, lossless: bool, progress: Progress) -> tuple[Plan, str]:
    if not 0 < error <= 1:
        raise OnnxoptError(f"--error is {error}, expected more than 0 and at most 1, as in --error {DEFAULT_ERROR}")
    if lossless:
        return Plan(source.sha256), ""
    sites = sum(1 for _ in graph.sites())
    done = itertools.count(1)
    return manager.decide(
        graph, source.sha256, error, lambda path: progress(f"probing {path}", _PROBED * next(done) / max(1, sites))
    )


def _apply(
    source: Source, ready: _Prepared, decided: Plan, output: Path, prefer: str, progress: Progress, started: float
) -> Result:
    weights = dict(ready.graph.weights())
    todo, done = max(1, 2 * len(weights)), 0

    def advance(what: str) -> None:
        nonlocal done
        done += 1
        progress(what, _PROBED + (_CODED - _PROBED) * min(1.0, done / todo))

    events = manager.run(ready.graph, decided, lambda path: advance(f"quantizing {path}"))
    inner, leaves = ready.graph.export()
    inner = strip(inner, source.model)
    packed = container.write(
        inner.SerializeToString(deterministic=True),
        leaves,
        decided.to_json(),
        prefer,
        lambda path: advance(f"coding {path}"),
    )
    progress("checking", _CODED)

    def outer(location: str = "") -> bytes:
        model = wrap(source.model, inner, ready.outside, ready.tensors, packed, location)
        return model.SerializeToString(deterministic=True)

    with ExitStack() as files:
        temporary = files.enter_context(write_atomically(output))
        if len(packed) > LARGEST_INLINE:
            data = files.enter_context(write_atomically(output.with_name(f"{output.name}.data")))
            data.write_bytes(packed)
            temporary.write_bytes(outer(data.name))
            output_error, not_compared = _compare(source, temporary)
            temporary.write_bytes(outer(f"{output.name}.data"))
            bytes_after, unchanged = temporary.stat().st_size + len(packed), False
        else:
            compressed = outer()
            unchanged = len(compressed) >= source.size
            temporary.write_bytes(source.copy() if unchanged else compressed)
            output_error, not_compared = _compare(source, temporary)
            bytes_after = temporary.stat().st_size
    return Result(
        source=source.path,
        output=output,
        bytes_before=source.size,
        bytes_fp16=source.size - 2 * source.float_elements,
        bytes_after=bytes_after,
        events=() if unchanged else tuple(_with_bytes(events, leaves, packed, weights, bytes_after)),
        cleaned=ready.cleaned,
        output_error=output_error,
        not_compared=not_compared,
        unchanged=unchanged,
        seconds=time.monotonic() - started,
        peak_memory=_peak_memory(),
        plan=decided,
    )


def _compare(source: Source, written: Path) -> tuple[float | None, str]:
    """Loads the file as a user would; raises OnnxoptError where the runtime refuses it."""
    try:
        compressed = runtime.load(written)
    except Exception as error:
        raise OnnxoptError(f"{source.path}: compressed it does not load, nothing was written: {error}") from error
    try:
        original = quiet_session(str(source.path))
    except Exception as error:  # whatever the runtime says about the user's own model
        return None, first_line(error)
    try:
        return evaluate.compare(original, compressed, input_scale(source.model)).error, ""
    except CannotRun as error:
        return None, str(error)


def _with_bytes(
    events: list[Event], leaves: dict[str, Leaf], packed: bytes, weights: dict[str, int], file_size: int
) -> Iterator[Event]:
    """The events with their bytes in the file, then the weights that no step named, then all the rest as one."""
    sizes, codecs = {}, {}
    with native.Container(packed) as stored:
        for entry in stored.entries:
            if not entry.hidden:
                extra = 0 if entry.auxiliary is None else stored.entries[entry.auxiliary].coded_size
                sizes[entry.name], codecs[entry.name] = entry.coded_size + extra, entry.codec
    named = {event.path: event for event in events}
    for path, leaf in leaves.items():
        event = named.get(path)
        if event is None:
            values = values_of(leaf)
            event = Event(path, values.shape, "", "lossless", values.nbytes, 0, values.size, 0.0)
        yield replace(event, bytes_after=sizes[path], codec=codecs[path])
    before = sum(size for path, size in weights.items() if path not in leaves)
    after = file_size - sum(sizes.values())
    yield Event("(graph, small tensors)", (), "", "", before, after, 0, 0.0, "deflate")
