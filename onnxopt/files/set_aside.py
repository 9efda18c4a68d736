"""Tensors of models: in their message, or set aside in a file that the system maps into memory.

A message holds a tensor by itself, so every copy of a large model holds all of its weights. A tensor that is set aside
is in a file instead: messages refer to it, arrays are views of the one map, and sessions use it in place.
"""

from __future__ import annotations

import mmap
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, numpy_helper

from onnxopt.errors import OnnxoptError
from onnxopt.files.claims import OF_ONE_RUN, forget_old, locked
from onnxopt.files.mapped import Mapped
from onnxopt.files.pages import give_back, watch
from onnxopt.files.places import cache_folder
from onnxopt.files.spool import Spool

Array = npt.NDArray[Any]

LEAST = 1 << 16
"""Bytes of a tensor that is worth setting aside."""
_PREFIX = "onnxopt.set-aside."
"""Of the names of files; what messages refer to."""
_ALIGNED = 64
"""Bytes, as the runtime aligns its own tensors."""
_TYPES = frozenset((
    TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16,
    TensorProto.UINT16, TensorProto.INT32, TensorProto.UINT32, TensorProto.INT64, TensorProto.UINT64, TensorProto.BOOL,
))  # fmt: skip
"""Types that numpy has, and that are stored in containers, too."""
_open: WeakValueDictionary[str, _File] = WeakValueDictionary()
"""Files by name."""


class _File:
    """A file with tensors, and its map."""

    def __init__(self, path: Path) -> None:
        self.folder, self.name = path.parent, path.name
        with path.open("rb") as file:
            self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        watch(self.map)
        self.start = np.frombuffer(self.map, np.uint8).ctypes.data
        _open[self.name] = self

    def view(self, tensor: TensorProto) -> Array:
        """The elements of a tensor that refers to this file."""
        given = {entry.key: entry.value for entry in tensor.external_data}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        flat = np.frombuffer(self.map, dtype, prod(tensor.dims), int(given["offset"]))
        return flat.reshape(tuple(tensor.dims))


class Shelf:
    """A folder of set-aside tensors, for as long as the shelf is referred to.

    Raises OSError if there is no place for it.
    """

    def __init__(self) -> None:
        forget_old()
        try:
            cache_folder().mkdir(parents=True, exist_ok=True)
            self._folder = _temporary(cache_folder())
        except OSError:
            self._folder = _temporary(None)
        self._lock = locked(Path(self._folder.name) / "lock")  # see `forget_old`
        self._files: list[_File] = []

    def take(
        self, tensors: Iterable[TensorProto], content: Callable[[TensorProto], bytes | memoryview] | None = None
    ) -> None:
        """Sets aside those of the tensors that are large, as a new file, in place.

        Arguments:
            content: gives the bytes of a tensor; by default, they are in its message.

        Raises OnnxoptError if the disk is full, and what `content` raises.
        """
        path = Path(self._folder.name) / f"{_PREFIX}{secrets.token_hex(8)}"
        try:
            with path.open("wb") as file:
                for tensor in tensors:
                    if tensor.data_type in _TYPES and not is_set_aside(tensor) and _size(tensor) >= LEAST:
                        file.write(bytes(-file.tell() % _ALIGNED))
                        at = file.tell()
                        file.write(content(tensor) if content else numpy_helper.to_array(tensor).tobytes())
                        _refer(tensor, path.name, at, _size(tensor))
                written = file.tell()
            if written:
                self._files.append(_File(path))
        except OSError as error:
            raise self._fault(error) from error

    def taken(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """The model with its large tensors set aside: another message, as one keeps the memory of what it has had."""
        self.take(model.graph.initializer)
        return onnx.load_model_from_string(model.SerializeToString())

    def spool(self) -> Spool:
        """A place on the same disk for what is made of the tensors. Raises OnnxoptError if there is none."""
        return Spool(Path(self._folder.name))

    def keep(self, array: Array) -> Array:
        """The same elements on the disk, where they are for as long as they are referred to. Raises OnnxoptError if it
        is full."""
        try:
            return Mapped(np.ascontiguousarray(array), Path(self._folder.name)).values
        except OSError as error:
            raise self._fault(error) from error

    def rest(self) -> None:
        """Gives the memory back until a tensor is used again."""
        for file in self._files:
            give_back(file.map)

    def _fault(self, error: OSError) -> OnnxoptError:
        return OnnxoptError(f"{self._folder.name}: the weights cannot be set aside: {error.strerror or error}; "
                            "XDG_CACHE_HOME names another place for them")  # fmt: skip


def _temporary(place: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=OF_ONE_RUN, dir=place, ignore_cleanup_errors=True)


def is_set_aside(tensor: TensorProto) -> bool:
    """Whether a tensor's elements are in a file of a `Shelf`."""
    return tensor.data_location == TensorProto.EXTERNAL and _file_of(tensor) is not None


def _size(tensor: TensorProto) -> int:
    """Bytes of a tensor's elements, of types that numpy has."""
    return prod(tensor.dims) * int(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def elements_of(tensor: TensorProto) -> Array:
    """The elements of a tensor; of one that is set aside, a view."""
    file = _file_of(tensor)
    return np.asarray(numpy_helper.to_array(tensor)) if file is None else file.view(tensor)


def tensor_of(array: Array, name: str) -> TensorProto:
    """A tensor of these elements, which refers to the file if the array is a contiguous view of what is set aside."""
    if array.nbytes >= LEAST and array.flags.c_contiguous:
        for file in list(_open.values()):
            at = array.ctypes.data - file.start
            if 0 <= at < len(file.map):
                kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
                tensor = TensorProto(name=name, data_type=kind, dims=array.shape)
                _refer(tensor, file.name, at, array.nbytes)
                return tensor
    return numpy_helper.from_array(array, name)


def whole(tensor: TensorProto) -> TensorProto:
    """The tensor with its elements in the message."""
    return numpy_helper.from_array(elements_of(tensor), tensor.name) if is_set_aside(tensor) else tensor


def with_elements(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model with all elements in the message."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(whole(tensor))
    return copy


@contextmanager
def loadable(model: bytes, options: onnxruntime.SessionOptions) -> Iterator[tuple[bytes | str, list[Any]]]:
    """What to make a session of instead of this serialized model, and what has to live as long as that session.

    The options are those for this one session.
    """
    if not _open or _PREFIX.encode() not in model:
        yield model, []
        return
    light, held, folder = onnx.load_model_from_string(model), list[Any](), Path()
    for tensor in light.graph.initializer:
        file = _file_of(tensor)
        if file is not None:
            folder = file.folder
        if file is not None and tensor.data_type in _TYPES and _size(tensor) >= LEAST:  # the runtime reads the others
            value = onnxruntime.OrtValue.ortvalue_from_numpy(file.view(tensor))
            options.add_initializer(tensor.name, value)
            held += [value, file]
    path = folder / f"{secrets.token_hex(8)}.onnx"
    try:
        path.write_bytes(model)
        yield str(path), held
    finally:
        path.unlink(missing_ok=True)


def _file_of(tensor: TensorProto) -> _File | None:
    for entry in tensor.external_data:
        if entry.key == "location" and entry.value.startswith(_PREFIX):
            return _open.get(entry.value)
    return None


def _refer(tensor: TensorProto, name: str, at: int, size: int) -> None:
    """Makes a tensor one whose elements are so many bytes of a file from there on."""
    for field in ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data"):
        tensor.ClearField(field)
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", name), ("offset", str(at)), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
