"""Random inputs for a model, shaped so that it runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from onnxopt.data.providers import on_providers
from onnxopt.data.sessions import AS_NEEDED, session_options, used_in_place
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.files.set_aside import loadable

Array = npt.NDArray[Any]

TYPES = {
    "float": "float32", "float16": "float16", "double": "float64", "int8": "int8", "uint8": "uint8", "int16": "int16",
    "uint16": "uint16", "int32": "int32", "uint32": "uint32", "int64": "int64", "uint64": "uint64", "bool": "bool",
}  # fmt: skip
"""The runtime's element types that numpy has too."""
SIZES = (1, 32, 224, 512, 640)
"""Candidates for an unknown dimension."""
_IMAGE_RANK = 4
_CHANNELS = (3, 1)
"""Candidates for the unknown channels of an image."""
_MOST_SHAPES = 100
"""Combinations of unknown dimensions to try."""
_MOST_ELEMENTS = 2**22
"""Elements of all inputs together, if their sizes are made up."""


class CannotRun(OnnxoptError):
    """The model runs on no random input; the text holds the runtime's message."""


def quiet_session(model: bytes | str, packs: bool = True) -> onnxruntime.InferenceSession:
    """A session on the CPU that logs nothing: callers expect that a model may fail to run.

    Arguments:
        packs: see `spare`.
    """
    return _quiet(model, ["CPUExecutionProvider"], packs=packs)


def chosen_session(model: bytes | str, keeps: bool = False, measures: bool = False) -> onnxruntime.InferenceSession:
    """A quiet session for what runs on much data: on the providers that the command was given, or else on the CPU.

    Arguments:
        keeps: whether it keeps the memory of a run for the next one. That is a quarter faster where runs follow each
            other at once, and takes the memory of the largest batch in every session.
        measures: whether the model has a Shape node for each value. They run as soon as they can then. By default they
            run last, with all values in memory.

    Raises OnnxoptError if one of them cannot be used; see `providers`.
    """
    return on_providers(partial(_quiet, model, keeps=keeps, measures=measures))


def _quiet(
    model: bytes | str, providers: list[str], keeps: bool = False, packs: bool = True, measures: bool = False
) -> onnxruntime.InferenceSession:
    options = session_options(sparing=True, packs=packs)
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = keeps
    options.use_deterministic_compute = True
    options.enable_mem_pattern = False  # from the second run on, all of a batch would be there once more, in one piece
    if measures:
        options.execution_order = AS_NEEDED
    if isinstance(model, str):
        return onnxruntime.InferenceSession(model, options, providers=providers)
    with loadable(model, options) as (content, held):
        if not held:
            return onnxruntime.InferenceSession(content, options, providers=providers)
        session = used_in_place(content, options, providers)
    session.held = held  # weights
    return session


def runnable_feeds(
    session: onnxruntime.InferenceSession, count: int, scale: dict[str, tuple[float, float]] | None = None
) -> list[dict[str, Array]]:
    """Random inputs on which `session` runs: normal noise for floats, zeros and ones for the rest.

    Arguments:
        count: inputs to try. Shapes may depend on values, so that the model does not run on each of them.
        scale: by input, the factor and offset applied to its noise (see `input_scale`).

    Raises CannotRun if the model runs with no candidate for its unknown dimensions.
    """
    sizes = runnable_sizes(session, scale)
    every = [random_feeds(session, sizes, seed, scale) for seed in range(count)]
    return [feeds for feeds in every if _runs(session, feeds)]


def _runs(session: onnxruntime.InferenceSession, feeds: dict[str, Array]) -> bool:
    try:
        session.run(None, feeds)
    except Exception:  # the runtime's own classes
        return False
    return True


def runnable_sizes(
    session: onnxruntime.InferenceSession,
    scale: dict[str, tuple[float, float]] | None = None,
    candidates: tuple[int, ...] = SIZES,
) -> dict[object, int]:
    """Sizes of the unknown dimensions, by key (see `unknown_dimensions`), with which `session` runs.

    Arguments:
        candidates: for an unknown dimension, the likeliest first.

    Raises CannotRun if it runs with none of them.
    """
    smallest = dict.fromkeys((key for _, _, key in unknown_dimensions(session)), 1)
    most = max(_MOST_ELEMENTS, _elements(session, smallest))
    moderate = (sizes for sizes in _shapes(session, candidates) if _elements(session, sizes) <= most)
    tried = itertools.islice(moderate, _MOST_SHAPES)
    return first_that_runs(session, tried, lambda sizes: random_feeds(session, sizes, 0, scale), "random")


def first_that_runs(
    session: onnxruntime.InferenceSession,
    candidates: Iterable[dict[object, int]],
    draw: Callable[[dict[object, int]], Mapping[str, Array]],
    kind: str,
) -> dict[object, int]:
    """The first sizes with which `session` runs on what `draw` gives.

    Arguments:
        kind: of the inputs, for the error message.

    Raises CannotRun if it runs with none of them.
    """
    reason = ""
    for sizes in candidates:
        try:
            session.run(None, dict(draw(sizes)))
        except CannotRun:
            raise
        except Exception as error:  # the runtime's own classes; their text is reported
            reason = reason or first_line(error)
            continue
        return sizes
    raise CannotRun(f"no {kind} input runs the model: {reason}")


def unknown_dimensions(session: onnxruntime.InferenceSession) -> Iterator[tuple[str, int, object]]:
    """Input, axis and key of each unknown dimension; dimensions of one name share a key."""
    for value in session.get_inputs():
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) or size <= 0:
                yield value.name, axis, size if isinstance(size, str) else (value.name, axis)


def _shapes(session: onnxruntime.InferenceSession, candidates: tuple[int, ...]) -> Iterator[dict[object, int]]:
    """Sizes for the unknown dimensions, the likeliest first: 1 for a leading dimension, which is a batch."""
    first = {key for _, axis, key in unknown_dimensions(session) if axis == 0}
    others = list(dict.fromkeys(key for _, _, key in unknown_dimensions(session) if key not in first))
    batch = dict.fromkeys(first, 1)
    for axis, size, channels in itertools.product((1, 3), candidates, _CHANNELS):
        if keys := _channels(session, axis) - first:
            yield batch | dict.fromkeys(others, size) | dict.fromkeys(keys, channels)
    for size in candidates:
        yield batch | dict.fromkeys(others, size)
    for sizes in itertools.product(candidates, repeat=len(others)):
        if len(set(sizes)) > 1:
            yield batch | dict(zip(others, sizes, strict=True))
    for size in candidates[1:]:
        yield dict.fromkeys([*first, *others], size)


def _channels(session: onnxruntime.InferenceSession, axis: int) -> set[object]:
    """Keys of unknown dimensions that are the channels of images, if channels are on this axis."""
    images = {value.name for value in session.get_inputs() if len(value.shape) == _IMAGE_RANK}
    return {key for name, at, key in unknown_dimensions(session) if at == axis and name in images}


def _elements(session: onnxruntime.InferenceSession, sizes: dict[object, int]) -> int:
    """Elements of all inputs."""
    unknown = {(name, axis): sizes[key] for name, axis, key in unknown_dimensions(session)}
    return sum(
        math.prod(unknown.get((value.name, axis), size) for axis, size in enumerate(value.shape))
        for value in session.get_inputs()
    )


def random_feeds(
    session: onnxruntime.InferenceSession,
    sizes: dict[object, int],
    seed: int,
    scale: dict[str, tuple[float, float]] | None = None,
) -> dict[str, Array]:
    """One random input: normal noise for floats, digits for strings, zeros and ones for the rest.

    Arguments:
        sizes: of the unknown dimensions, by key.
        scale: by input, the factor and offset applied to its noise.

    Raises CannotRun for an input that is not a tensor of numbers or strings.
    """
    rng = np.random.default_rng(seed)
    unknown = {(name, axis): sizes[key] for name, axis, key in unknown_dimensions(session)}
    feeds = {}
    for value in session.get_inputs():
        kind = value.type.removeprefix("tensor(").removesuffix(")")
        dims = [unknown.get((value.name, axis), size) for axis, size in enumerate(value.shape)]
        if kind == "string":
            feeds[value.name] = rng.integers(0, 10, dims).astype(str).astype(object)
            continue
        if kind not in TYPES:
            raise CannotRun(f"no random input runs the model: input {value.name!r} is a {value.type}")
        dtype = np.dtype(TYPES[kind])
        if dtype.kind == "f":
            factor, offset = (scale or {}).get(value.name, (1.0, 0.0))
            feeds[value.name] = (factor * rng.standard_normal(dims) + offset).astype(dtype)
        else:
            feeds[value.name] = rng.integers(0, 2, dims).astype(dtype)
    return feeds
