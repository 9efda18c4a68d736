"""Reads models, with clear errors."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from mmap import ACCESS_READ, mmap
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from weakref import WeakSet

import onnx
from google.protobuf.message import DecodeError

from onnxopt import native
from onnxopt.data import Resting
from onnxopt.errors import ContainerError, OnnxoptError
from onnxopt.files import reading
from onnxopt.files.set_aside import Shelf, is_set_aside, with_elements
from onnxopt.graph.constants import repeated, tie
from onnxopt.graph.light_message import Light, light
from onnxopt.graph.scopes import separate
from onnxopt.graph.walk import tensors, texts

DOMAIN, OP, PAYLOAD = "onnxopt", "CompressedModel", "onnxopt.container"
"""The single node of the outer model, and the initializer that holds the container, if no value has that name."""
STAMP = "onnxopt_request"
"""The key of a file's metadata under which it says what request made it."""
LARGEST_INLINE = 2**31 - 2**24
"""Bytes of the largest model that is one message, with room for further outputs."""
_SET_ASIDE = 1 << 26
"""Bytes of a model whose weights are worth setting aside."""
_PIECE = 1 << 24
"""Bytes of a file that are read at a time."""
_FLOAT_BYTES: dict[int, int] = {
    onnx.TensorProto.DOUBLE: 8, onnx.TensorProto.FLOAT: 4, onnx.TensorProto.FLOAT16: 2, onnx.TensorProto.BFLOAT16: 2
}  # fmt: skip
"""Bytes of an element, by the types of floats that files hold."""


@dataclass(frozen=True, slots=True)
class Source:
    """A model as it was read from its file."""

    path: Path
    model: onnx.ModelProto
    size: int
    """Bytes of the file and its external data."""
    sha256: str
    """Of the file and its external data, in hex."""
    files: tuple[Path, ...] = ()
    """The file and its external data."""
    shelf: Shelf | None = field(default=None, repr=False)
    """Where the model's large weights are; None if they are in `model`."""
    sessions: WeakSet[Resting] = field(default_factory=WeakSet, repr=False, compare=False)
    """Those of a model whose weights are set aside."""

    def rest(self, trims: bool = False) -> None:
        """Gives back the memory of weights that are set aside, and of sessions, until they are used again.

        Arguments:
            trims: whether memory that was freed goes back to the system, too.
        """
        if self.shelf is not None:
            for session in self.sessions:
                session.rest()
            self.shelf.rest()
        if trims:
            native.return_memory()

    def copy(self) -> bytes:
        """The model as one file: the source's own bytes or, if it has external data, a model with that data inside.

        Weights that share a region of the external data are one in the copy, so that it is not larger.
        """
        data = self.path.read_bytes()
        if len(data) == self.size:
            return data
        model = with_elements(self.model)
        inside = model.SerializeToString(deterministic=True)
        if len(inside) <= self.size:
            return inside
        separate(model)
        tie(model)
        return model.SerializeToString(deterministic=True)

    def size_with_floats_of(self, width: int) -> int:
        """Bytes if every float weight, in subgraphs too, had elements of `width` bytes."""
        floats = (t for t in tensors(self.model) if t.data_type in _FLOAT_BYTES)
        return self.size + sum(prod(t.dims) * (width - _FLOAT_BYTES[t.data_type]) for t in floats)


def payload(model: onnx.ModelProto) -> bytes:
    """The container in a model that onnxopt wrote. Raises ContainerError if there is none."""
    return bytes(model.graph.initializer[_payload_index(model)].raw_data)


def _payload_index(model: onnx.ModelProto) -> int:
    names = [node.input[0] for node in model.graph.node if (node.domain, node.op_type) == (DOMAIN, OP) and node.input]
    for index, tensor in enumerate(model.graph.initializer):
        if tensor.name in names:
            return index
    raise ContainerError(f"the model has no {DOMAIN}::{OP} node whose first input is an initializer")


def open_compressed(source: str | bytes) -> tuple[onnx.ModelProto, memoryview] | None:
    """The message of a compressed model without its container, and the container, which stays in the file.

    Arguments:
        source: a file or its content.

    Gives None for other models. Raises protobuf's DecodeError where it is no model, ContainerError, and OSError or
    ValueError where the container is in a file that cannot be read.
    """
    content = memoryview(source) if isinstance(source, bytes) else _mapped(Path(source))
    found = light(content) or Light(onnx.load_model_from_string(bytes(content)), {})
    if not is_compressed(found.model):
        return None
    index = _payload_index(found.model)
    tensor = found.model.graph.initializer[index]
    if isinstance(source, str) and _location(tensor) is not None:
        ((file, _),) = _external(Path(source), found.model).items()
        content = _mapped(file)
        offset, length = _place(tensor, len(content))
        return found.model, content[offset : offset + length]
    return found.model, found.elements.get(index, memoryview(tensor.raw_data))


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as file:
        return memoryview(mmap(file.fileno(), 0, access=ACCESS_READ))


def is_compressed(model: onnx.ModelProto) -> bool:
    """Whether onnxopt wrote this model."""
    return any(node.domain == DOMAIN and node.op_type == OP for node in model.graph.node)


def read(path: str | os.PathLike[str], set_aside: bool = False) -> Source:
    """Reads an ONNX file with its external data.

    Arguments:
        set_aside: whether the weights of a large model may be in a file instead of its message; see `Source.shelf`.

    Raises OnnxoptError if that is impossible, or an open `writing` block would overwrite one of these files.
    """
    path = Path(path)
    reading([path])
    try:
        model, inside = _parsed(path, set_aside)
        external = _external(path, model)
        files = (path, *external)
        reading(external)
        size = sum(file.stat().st_size for file in files)
        shelf = Shelf() if set_aside and size >= _SET_ASIDE else None
        if shelf is not None:
            _shelve(shelf, model, inside)
        for file, members in external.items():
            _read_in(file, members, model.graph.initializer, shelf)
        for tensor in tensors(model):
            if tensor.raw_data:
                _check_size(tensor, len(tensor.raw_data))
        if shelf is not None:
            model = shelf.taken(model)
        sha256 = _digest(files)
    except DecodeError as error:
        raise OnnxoptError(f"{path}: not an ONNX model ({error}); expected a file that onnx.load can read") from error
    except (OSError, ValueError) as error:
        raise OnnxoptError(f"{path}: cannot be read: {_reason(error)}") from error
    if not model.graph.node and not model.graph.output:
        raise OnnxoptError(f"{path}: holds no graph; expected an ONNX model")
    if (bad := next((text for text in texts(model) if not isinstance(text, str)), None)) is not None:
        raise OnnxoptError(f"{path}: the name {bad!r} is no UTF-8; expected names as ONNX has them")
    if (name := repeated(model)) is not None:
        raise OnnxoptError(f"{path}: two different constants are called {name!r}, and ONNX Runtime takes the first or "
                           "the last, depending on their size; expected unique names")  # fmt: skip
    return Source(path, model, size, sha256, files, shelf)


def _parsed(path: Path, set_aside: bool) -> tuple[onnx.ModelProto, Mapping[int, memoryview]]:
    """The message of a file and, by index of an initializer that lacks them, elements that were left in the file."""
    if set_aside and path.stat().st_size >= _SET_ASIDE:
        found = light(_mapped(path))
        if found is not None:
            return found.model, found.elements
    return onnx.load_model_from_string(path.read_bytes()), {}


def _shelve(shelf: Shelf, model: onnx.ModelProto, elements: Mapping[int, memoryview]) -> None:
    """Sets aside, or else reads in, elements that were left in the file. Raises ValueError if a tensor's do not fit."""
    found = ((model.graph.initializer[index], content) for index, content in elements.items())
    owners = [(tensor, content) for tensor, content in found if _location(tensor) is None]
    for tensor, content in owners:
        _check_size(tensor, len(content))
    known = {id(tensor): content for tensor, content in owners}
    shelf.take((tensor for tensor, _ in owners), lambda tensor: known[id(tensor)])
    for tensor, content in owners:
        if not is_set_aside(tensor):
            tensor.raw_data = bytes(content)


def _check_size(tensor: onnx.TensorProto, length: int) -> None:
    if length != _size(tensor):
        raise ValueError(f"tensor {tensor.name!r} takes {_size(tensor)} bytes, but it has {length}")


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def _digest(files: Iterable[Path]) -> str:
    """SHA-256 of the files one after the other, in hex."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                digest.update(piece)
    return digest.hexdigest()


def _external(path: Path, model: onnx.ModelProto) -> dict[Path, list[onnx.TensorProto]]:
    """The files beside the model that tensors are in, in order of name, with these tensors.

    A file may be a symbolic link to anywhere, as in the cache of Hugging Face: the links are the user's, while the
    names come from the model. Raises ValueError if a name leads out of the model's folder.
    """
    by_location: dict[str, list[onnx.TensorProto]] = {}
    for tensor in tensors(model):
        if (location := _location(tensor)) is not None:
            by_location.setdefault(location, []).append(tensor)
    files = {}
    for location, members in sorted(by_location.items()):
        file = path.parent / location
        inside = PurePosixPath(location)
        if not location or inside.is_absolute() or ".." in inside.parts or file.is_absolute() != path.is_absolute():
            raise ValueError(f"tensor {members[0].name!r} is in {location!r}, expected a file in the model's folder")
        if not file.is_file():
            raise ValueError(f"tensor {members[0].name!r} is in {location!r}, which is no file beside the model")
        files[file] = members
    return files


def _location(tensor: onnx.TensorProto) -> str | None:
    """The file that a tensor says it is in; None if it is in its message."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _read_in(
    file: Path, members: Sequence[onnx.TensorProto], weights: Iterable[onnx.TensorProto], shelf: Shelf | None
) -> None:
    """Reads elements in a file into their tensors, or sets aside those of weights. Raises ValueError if a region does
    not fit."""
    size, place = file.stat().st_size, _location(members[0])
    with file.open("rb") as stream:
        if shelf is not None:
            inside = (tensor for tensor in weights if _location(tensor) == place)
            shelf.take(inside, lambda tensor: _region(tensor, stream, size))
        for tensor in members:
            if not is_set_aside(tensor):
                tensor.raw_data = _region(tensor, stream, size)
                tensor.ClearField("external_data")
                tensor.data_location = onnx.TensorProto.DEFAULT


def _place(tensor: onnx.TensorProto, size: int) -> tuple[int, int]:
    """Where the bytes of a tensor begin in a file of this size, and how many they are. Raises ValueError if they are
    not all there."""
    given = {entry.key: entry.value for entry in tensor.external_data}
    wanted = _size(tensor)
    numbers = {key: given.get(key, default) for key, default in (("offset", "0"), ("length", str(wanted)))}
    if wrong := [text for text in numbers.values() if not text.isdecimal()]:
        raise ValueError(f"the region of tensor {tensor.name!r} has {wrong[0]!r}, expected a number")
    offset, length = map(int, numbers.values())
    if length != wanted or offset + wanted > size:
        raise ValueError(f"tensor {tensor.name!r} takes {wanted} bytes, but its region is {length} bytes from "
                         f"{offset} on, in {given['location']!r} of {size} bytes")  # fmt: skip
    return offset, wanted


def _region(tensor: onnx.TensorProto, stream: BinaryIO, size: int) -> bytes:
    """The bytes of a tensor in an open file of this size. Raises ValueError if they are not all there."""
    offset, wanted = _place(tensor, size)
    stream.seek(offset)
    return stream.read(wanted)


def _size(tensor: onnx.TensorProto) -> int:
    """Bytes of the tensor's elements. Raises ValueError if its type has no fixed size."""
    return -(-prod(tensor.dims) * _bits(tensor.data_type) // 8)


def _bits(data_type: int) -> int:
    """Bits of an element. Raises ValueError for types that have no fixed size, such as strings."""
    name = onnx.TensorProto.DataType.Name(data_type)
    if data_type in (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED):
        raise ValueError(f"a tensor of type {name} cannot be in external data")
    packed = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}
    return packed.get(name) or 8 * int(onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize)
