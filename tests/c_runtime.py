"""ONNX Runtime's C library in this process, called as a C program calls it: functions by their slot (ort_abi.h)."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p, cast
from pathlib import Path

import numpy as np

from onnxopt import native

Array = np.ndarray


class CRuntime:
    """A library, and one environment."""

    def __init__(self, path: Path) -> None:
        library = ctypes.CDLL(str(path))
        library.OrtGetApiBase.restype = c_void_p
        self.base = c_void_p(library.OrtGetApiBase())
        get_api = ctypes.CFUNCTYPE(c_void_p, c_uint32)(cast(self.base, POINTER(c_void_p))[0])
        self._table = cast(get_api(16), POINTER(c_void_p))
        self.env = self.new(3, c_int(2), b"test")

    def call(self, slot: int, *arguments: object) -> None:
        """Raises RuntimeError with the runtime's words."""
        self.check(self._function(slot, c_void_p, arguments)(*arguments))

    def new(self, slot: int, *arguments: object) -> c_void_p:
        """What a function stores where its last argument points."""
        made = c_void_p()
        self.call(slot, *arguments, byref(made))
        return made

    def check(self, status: int | None) -> None:
        if status:
            raise RuntimeError(self._function(2, c_char_p, (c_void_p(),))(c_void_p(status)).decode())

    def _function(self, slot: int, result: object, arguments: tuple[object, ...]) -> ctypes._CFunctionType:
        kinds = [type(one) if isinstance(one, ctypes._SimpleCData) else c_void_p for one in arguments]
        return ctypes.CFUNCTYPE(result, *kinds)(self._table[slot])

    def options(self, entries: dict[str, str], provider: str | None = None, **settings: str) -> c_void_p:
        options = self.new(10)
        for key, value in entries.items():
            self.entry(options, key, value)
        if provider:
            texts = [(c_char_p * len(settings))(*(text.encode() for text in part))
                     for part in (settings.keys(), settings.values())]  # fmt: skip
            self.call(216, options, provider.encode(), *texts, c_size_t(len(settings)))
        return options

    def entry(self, options: c_void_p, key: str, value: str) -> None:
        self.call(130, options, key.encode(), value.encode())

    def register(self, options: c_void_p) -> None:
        function = ctypes.CDLL(str(native.library_path())).RegisterCustomOps
        function.restype = c_void_p
        self.check(function(options, self.base))

    def session(self, path: Path, options: c_void_p) -> c_void_p:
        return self.new(7, self.env, str(path).encode(), options)

    def onnxopt_session(self, path: Path, options: c_void_p) -> c_void_p:
        function, made = native._library.library().onnxopt_create_session, c_void_p()
        function.restype = c_void_p
        self.check(function(self.base, str(path).encode(), None, c_size_t(0), options, byref(made)))
        return made

    def run(self, session: c_void_p, x: Array, columns: int) -> Array:
        """The output y[rows, columns] of a model with an input x[rows, ...], both of float32."""
        memory = self.new(69, c_int(0), c_int(0))
        dims = (c_int64 * x.ndim)(*x.shape)
        value = self.new(49, memory, c_void_p(x.ctypes.data), c_size_t(x.nbytes), dims, c_size_t(x.ndim), c_int(1))
        names = [(c_char_p * 1)(name) for name in (b"x", b"y")]
        outputs = (c_void_p * 1)()
        self.call(9, session, None, names[0], byref(value), c_size_t(1), names[1], c_size_t(1), outputs)
        data = self.new(51, c_void_p(outputs[0]))
        return np.array(np.ctypeslib.as_array(cast(data, POINTER(ctypes.c_float)), (len(x), columns)))
