"""Session options with the libraries of custom operators that the user's models need, and the cores to use."""

from __future__ import annotations

import copyreg
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import onnxruntime

from onnxopt.errors import OnnxoptError, first_line

_libraries: ContextVar[tuple[str, ...]] = ContextVar("custom_ops", default=())
_one_core: ContextVar[bool] = ContextVar("one_core", default=False)
_FOLDED = 1 << 20
"""Bytes of what sessions that hold no copies of weights may compute in advance: masks and scales, but no matrices."""
_WIDENS = "FuseFp16InitializerToFp32NodeTransformer"
"""The runtime's optimizer that makes weights of half precision twice as large."""
AS_NEEDED = onnxruntime.ExecutionOrder.PRIORITY_BASED
"""Nodes in the order of the model. By default, those come first that read weights alone: all weights of half precision
would be widened before the first product."""


@contextmanager
def custom_ops(libraries: Iterable[str | os.PathLike[str]]) -> Iterator[None]:
    """Registers these libraries, too, with all `session_options` in this context.

    Raises OnnxoptError if one does not exist or ONNX Runtime rejects it.
    """
    paths = tuple(str(Path(library).resolve()) for library in libraries)
    token = _libraries.set((*_libraries.get(), *(path for path in paths if path not in _libraries.get())))
    try:
        if paths:
            session_options()
        yield
    finally:
        _libraries.reset(token)


def libraries_in_use() -> tuple[str, ...]:
    """The absolute paths of the libraries in this context, for another process."""
    return _libraries.get()


@contextmanager
def one_core() -> Iterator[None]:
    """Within this context, sessions and threads use one core, because the others have work of their own."""
    token = _one_core.set(True)
    try:
        yield
    finally:
        _one_core.reset(token)


def cores() -> int:
    """Cores to use: those that the process may use, or one."""
    if _one_core.get():
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def session_options(sparing: bool = False, packs: bool = True) -> onnxruntime.SessionOptions:
    """New options; raises as `custom_ops` does.

    Arguments:
        sparing: see `spare`.
        packs: see `spare`.
    """
    options = onnxruntime.SessionOptions()
    keep_to_cores(options)
    if sparing:
        spare(options, packs)
    for path in _libraries.get():
        if not Path(path).is_file():
            raise OnnxoptError(f"--custom-ops is {path!r}, which is no file; expected a library of custom operators")
        try:
            options.register_custom_ops_library(path)
        except Exception as error:  # the runtime's own types, which share no base class
            raise OnnxoptError(f"--custom-ops {path}: cannot be registered: {first_line(error)}") from error
    return options


def keep_to_cores(options: onnxruntime.SessionOptions) -> None:
    """No more threads than this process may use cores. The runtime sees all, and threads that wait for a core spin.

    Kernels that round by ranges, such as DynamicQuantizeLSTM, give other outputs with another number.
    """
    if cores() < (os.cpu_count() or 1):
        options.intra_op_num_threads = cores()


def spare(options: onnxruntime.SessionOptions, packs: bool = True) -> None:
    """Makes sessions with these options take no more than they need, for runs that are not timed; outputs are the same.

    Threads that wait for work sleep: spinning, as they do by default, they take the time of whole cores between small
    runs. What a batch took is given back after it: the runtime's arena keeps up to twice that of the largest one.

    Arguments:
        packs: whether sessions may hold weights in forms of their own. Without these copies they take half the memory.
            Sums differ in the last bits from those with them, and are the same in all sessions without.
    """
    if not packs:
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("optimization.constant_folding_max_output_size_in_bytes", str(_FOLDED))
        options.add_session_config_entry("optimization.disable_specified_optimizers", _WIDENS)
        options.execution_order = AS_NEEDED
        options.log_severity_level = 3  # it warns of each node that it computes in every run
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = False


def used_in_place(
    model: bytes | str, options: onnxruntime.SessionOptions, providers: Sequence[Any] | None
) -> onnxruntime.InferenceSession:
    """A session that copies no weights: it packs none for its kernels, and computes nothing of them in advance. Sums
    may differ in the last bits."""
    options.add_session_config_entry("session.disable_prepacking", "1")
    options.execution_order = AS_NEEDED
    without = ["ConstantFolding", _WIDENS]
    return onnxruntime.InferenceSession(model, options, providers=providers, disabled_optimizers=without)


_TRAVEL = ("use_deterministic_compute", "enable_cpu_mem_arena", "log_severity_level")
"""Of the options of a session; others are those of the place where it is."""


def _travelling(session: onnxruntime.InferenceSession) -> tuple[Any, ...]:
    """A session travels as what it was made of."""
    options = session.get_session_options()
    kept = {name: getattr(options, name) for name in _TRAVEL}
    return _made_again, (session._model_path or session._model_bytes, kept, session.get_providers())


def _made_again(model: str | bytes, kept: dict[str, Any], providers: list[str]) -> onnxruntime.InferenceSession:
    options = session_options(sparing=True)
    for name, value in kept.items():
        setattr(options, name, value)
    return onnxruntime.InferenceSession(model, options, providers=providers)


copyreg.pickle(onnxruntime.InferenceSession, _travelling)
