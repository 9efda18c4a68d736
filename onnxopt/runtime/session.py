"""Compressed models in ONNX Runtime: `load` one, or `register` the library and load it like any other model."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import onnxruntime

from onnxopt import native
from onnxopt.data import (
    check_used,
    keep_to_cores,
    providers_in_use,
    quiet_session,
    session_options,
    spare,
)
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import Source, embed, foreign_domains, is_only_wrapped, open_compressed
from onnxopt.graph.onnx_file import PAYLOAD
from onnxopt.runtime.unpacked import unpacked

Providers = Sequence[str | tuple[str, dict[Any, Any]]]

_FIRST_SHARING = (1, 23)
"""Older wheels do not share their environment, so a registered library cannot create a session in it."""
RESIDENCE = "onnxopt.residence"
"""The config entry for where weights are: ``loaded``, ``streamed``, or ``streamed:64MiB``."""
_KEEP_CONTAINER = "onnxopt.keep_container"
_LARGEST_MESSAGE = 2**31 - 1
"""Bytes: protobuf's limit."""


def load(
    model: str | os.PathLike[str] | bytes,
    sess_options: onnxruntime.SessionOptions | None = None,
    providers: Providers | None = None,
) -> onnxruntime.InferenceSession:
    """A session of the inner model of a compressed model, with decoded weights.

    Works with onnxruntime 1.17 and later. A model that is not compressed loads as usual. Weights of over 16 MiB are
    decoded into temporary files, which the runtime maps and which are gone when this returns; where there is no room
    for twice their size, and on Windows, into memory, which then holds them more than once while the session is
    created. `set_providers` of the session fails: the weights are not there a second time.

    Arguments:
        model: a file or its content.
        sess_options: they can serve any number of sessions. A model with custom operators needs options with which
            their library is registered. With the config entry ``onnxopt.residence``, weights stay compressed in memory.
        providers: as for `onnxruntime.InferenceSession`.

    Raises ContainerError if the file is damaged, OnnxoptError if the installed onnxruntime cannot run it.

    Examples:
        >>> load("small.onnx").get_inputs()[0].name
        'input'
    """
    return _load(model if isinstance(model, bytes) else os.fspath(model), sess_options, providers)


def load_to_compare(model: str | os.PathLike[str] | bytes, packs: bool = True) -> onnxruntime.InferenceSession:
    """`load`, with options that spare time and memory: its outputs are the same, and it is not to be timed.

    Arguments:
        packs: see `spare`.
    """
    own = partial(session_options, sparing=True, packs=packs)
    return _load(model if isinstance(model, bytes) else os.fspath(model), own=own)


def _load(
    source: str | bytes,
    sess_options: onnxruntime.SessionOptions | None = None,
    providers: Providers | None = None,
    own: Callable[[], onnxruntime.SessionOptions] = session_options,
) -> onnxruntime.InferenceSession:
    chosen = providers_in_use() if providers is None else ()
    session = _created(source, sess_options, chosen or providers, own)
    check_used(session, chosen)
    return session


def _created(
    source: str | bytes,
    sess_options: onnxruntime.SessionOptions | None,
    providers: Providers | None,
    own: Callable[[], onnxruntime.SessionOptions],
) -> onnxruntime.InferenceSession:
    if not _is_compressed(source):
        return onnxruntime.InferenceSession(source, sess_options or own(), providers=providers)
    opened = open_compressed(source)
    if opened is None:
        return onnxruntime.InferenceSession(source, sess_options or own(), providers=providers)
    outer, data = opened
    del opened
    if not is_only_wrapped(outer) or (sess_options and _entry(sess_options, RESIDENCE)):
        # The outer graph has nodes for sequences or maps, or returns an input: it has to run. It also holds the
        # container, from which weights may be decoded in every run.
        del data
        _check_shares()
        options = sess_options or own()
        if providers and not options.has_providers():
            _add(providers, options)
        _register(options)
        return onnxruntime.InferenceSession(source, options)
    with unpacked(data) as path:
        if path is not None:
            options = sess_options or own()
            return onnxruntime.InferenceSession(str(path), options, providers=providers)
    if sess_options is not None:
        embedded = _embed(data)
        return onnxruntime.InferenceSession(embedded, sess_options, providers=providers)
    prepared = native.prepared(data)
    del data
    with prepared as (key, inner):
        options = own()
        options.add_session_config_entry("onnxopt.prepared", key)
        _register(options)
        return onnxruntime.InferenceSession(inner, options, providers=providers)


def sessions(model: str | os.PathLike[str], packs: bool = True) -> Iterator[tuple[str, onnxruntime.InferenceSession]]:
    """The sessions that users can get of a file, one at a time, each with the words for how it was created. They spare
    time and memory, which changes no output.

    The first is stock ONNX Runtime's with the library registered, where the installed version allows that. `load`
    follows where it skips the outer graph. Of a model that is not compressed there is only one session.

    Arguments:
        packs: see `spare`.

    Raises as `register` and `load` do, and what ONNX Runtime raises if it rejects the file.
    """
    path = os.fspath(model)
    if not _is_compressed(path):
        yield "loaded", load_to_compare(path, packs=packs)
        return
    shares = _version() >= _FIRST_SHARING
    if shares:
        options = onnxruntime.SessionOptions()
        keep_to_cores(options)
        spare(options, packs)
        register(options)
        yield "loaded by registering the library", onnxruntime.InferenceSession(path, options)
    if not shares or _is_only_wrapped(path):
        yield "loaded by onnxopt.load", load_to_compare(path, packs=packs)


def _is_only_wrapped(path: str) -> bool:
    opened = open_compressed(path)
    return opened is not None and is_only_wrapped(opened[0])


def load_checked(path: Path) -> onnxruntime.InferenceSession:
    """`load_to_compare` for commands: raises OnnxoptError for any reason that the model does not run."""
    try:
        return load_to_compare(path)
    except OnnxoptError:
        raise
    except Exception as error:  # the runtime raises classes of its own
        raise OnnxoptError(f"{path}: does not run: {first_line(error)}") from error


def check_custom_ops(source: Source) -> None:
    """Raises OnnxoptError, naming --custom-ops, if a model has custom operators and does not load without them."""
    domains = foreign_domains(source.model)
    if not domains:
        return
    try:
        quiet_session(str(source.path))
    except Exception as error:  # the runtime raises classes of its own
        raise OnnxoptError(
            f"{source.path}: has custom operators of the domain {', '.join(map(repr, domains))}, and the original does "
            f"not load in ONNX Runtime either: {first_line(error)}; --custom-ops names their library"
        ) from error


def register(sess_options: onnxruntime.SessionOptions) -> None:
    """Enables sessions with these options to run compressed models.

    The inner session gets the options as they are now, with the execution providers of ``sess_options.add_provider``.
    Config entries of its own are ``onnxopt.intra_op_num_threads``, ``onnxopt.inter_op_num_threads`` (0: all cores),
    ``onnxopt.graph_optimization_level`` (``disabled``, ``basic``, ``extended`` or ``all``), ``onnxopt.keep_container``
    (``1``: the compressed bytes stay in memory; ``0``: on Linux, they are returned to the system while they are
    decoded, which is the default unless execution providers or an optimized model may need them again), and, for the
    execution providers N = 0, 1, ..., ``onnxopt.ep.N.name`` and ``onnxopt.ep.N.options`` (``key=value;key=value``): see
    docs/loader.md. Set them with ``sess_options.add_session_config_entry`` before.

    Raises OnnxoptError if this onnxruntime cannot share its environment (wheels before 1.23) or a setting is wrong.
    """
    _check_shares()
    _use_up_container(sess_options)
    _register(sess_options)


def _use_up_container(sess_options: onnxruntime.SessionOptions) -> None:
    """Lets the loader give the compressed bytes back while it decodes them, where nothing can come to need them again:
    no execution provider that may refuse the model, and no optimized model to be written."""
    undecided = (_entry(sess_options, name) is None for name in (_KEEP_CONTAINER, RESIDENCE, "onnxopt.ep.0.name"))
    if all(undecided) and not sess_options.has_providers() and not sess_options.optimized_model_filepath:
        sess_options.add_session_config_entry(_KEEP_CONTAINER, "0")


def _check_shares() -> None:
    if _version() < _FIRST_SHARING:
        raise OnnxoptError(
            f"onnxruntime {onnxruntime.__version__} cannot run compressed models through a registered library; "
            "use onnxopt.load(path), or onnxruntime 1.23 or newer"
        )


def _version() -> tuple[int, ...]:
    return tuple(int(part) for part in onnxruntime.__version__.split(".")[:2])


def _register(sess_options: onnxruntime.SessionOptions) -> None:
    try:
        sess_options.register_custom_ops_library(str(native.library_path()))
    except Exception as error:  # the runtime's own types, which share no base class
        raise OnnxoptError(str(error)) from error


def _add(providers: Providers, sess_options: onnxruntime.SessionOptions) -> None:
    """The inner session of a registered model has the providers that the options had when registering."""
    for one in providers:
        name, settings = (one, {}) if isinstance(one, str) else one
        sess_options.add_provider(name, {str(key): str(value) for key, value in settings.items()})


def _is_compressed(source: str | bytes) -> bool:
    if isinstance(source, bytes):
        return PAYLOAD.encode() in source
    try:
        with Path(source).open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(PAYLOAD.encode()) >= 0
    except (OSError, ValueError):  # missing or empty: ONNX Runtime has the better message
        return False


def _entry(sess_options: onnxruntime.SessionOptions, name: str) -> str | None:
    try:
        return str(sess_options.get_session_config_entry(name))
    except RuntimeError:  # there is none
        return None


def _embed(data: memoryview) -> bytes:
    """The inner model with its weights, as an ordinary model."""
    with native.Container(data) as container:
        weights = container.decode()
    if len(container.model) + sum(array.nbytes for array in weights.values()) > _LARGEST_MESSAGE:
        raise OnnxoptError(
            "the decoded model is over 2 GB: call onnxopt.load without sess_options, or use onnxopt.register"
        )
    model = onnx.load_model_from_string(container.model)
    embed(model, weights)
    return bytes(model.SerializeToString())
