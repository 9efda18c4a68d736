"""Loads a model once, in a process of its own, and prints seconds and the MiB that loading adds at most, as JSON.

    python one_load.py plain|registered|load|c-plain|c model.onnx disabled|basic|extended|all

Other versions of onnxruntime are found by PYTHONPATH. `c` and `c-plain` call the C library of the wheel, by slots.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from collections.abc import Callable
from ctypes import POINTER, byref, c_char_p, c_int, c_size_t, c_uint32, c_void_p, cast
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from onnxopt import native
from onnxopt.measure import memory

LEVELS = {"disabled": 0, "basic": 1, "extended": 2, "all": 99}


def by_c(form: str, model: str, level: int) -> Callable[[], Any]:
    """CreateSession or onnxopt_create_session."""
    (path,) = Path(str((find_spec("onnxruntime") or sys).origin)).parent.glob("capi/libonnxruntime.so.*")
    library, ours = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL), ctypes.CDLL(str(native.library_path()))
    library.OrtGetApiBase.restype = ours.onnxopt_create_session.restype = c_void_p
    base = c_void_p(library.OrtGetApiBase())
    api = cast(ctypes.CFUNCTYPE(c_void_p, c_uint32)(cast(base, POINTER(c_void_p))[0])(16), POINTER(c_void_p))

    def call(slot: int, *arguments: Any) -> None:
        check(ctypes.CFUNCTYPE(c_void_p, *map(type, arguments))(api[slot])(*arguments))

    def check(status: int | None) -> None:
        if status:
            raise RuntimeError(ctypes.CFUNCTYPE(c_char_p, c_void_p)(api[2])(status))

    environment, options, session = c_void_p(), c_void_p(), c_void_p()
    call(3, c_int(2), c_char_p(b"one_load"), cast(byref(environment), c_void_p))
    call(10, cast(byref(options), c_void_p))
    call(23, options, c_int(level))
    name = c_char_p(model.encode())
    if form == "c-plain":
        return lambda: call(7, environment, name, options, cast(byref(session), c_void_p))
    return lambda: check(ours.onnxopt_create_session(base, name, None, c_size_t(0), options, byref(session)))


def by_python(form: str, model: str, level: int) -> Callable[[], Any]:
    """An InferenceSession."""
    import onnxruntime  # noqa: PLC0415 (C programs have a runtime of their own)

    import onnxopt  # noqa: PLC0415

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel(level)
    load, register, cpu = onnxopt.load, onnxopt.register, ["CPUExecutionProvider"]
    if form == "load":
        return lambda: load(model, options, cpu)
    if form == "registered":
        register(options)
    return lambda: onnxruntime.InferenceSession(model, options, cpu)


def main(form: str, model: str, level: str) -> None:
    """See the module."""
    create = (by_c if form.startswith("c") else by_python)(form, model, LEVELS[level])
    before = memory.peak()
    started = time.perf_counter()
    session = create()
    seconds = time.perf_counter() - started
    print(json.dumps({"s": seconds, "MiB": ((memory.peak() or 0) - (before or 0)) / 2**20}))
    del session


if __name__ == "__main__":
    main(*sys.argv[1:])
