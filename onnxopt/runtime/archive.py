"""Compressed model files: inspecting, verifying and decompressing them."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from google.protobuf.message import DecodeError

from onnxopt import native, runtime
from onnxopt.data import CannotRun, quiet_session, runnable_feeds
from onnxopt.encoding import Array
from onnxopt.errors import ContainerError, OnnxoptError, first_line
from onnxopt.files import reading, write_atomically, writing
from onnxopt.graph import embed, join, open_compressed, read
from onnxopt.search.identity import first_difference, interface_fault
from onnxopt.spec.plan import Plan

_PROBES = 4
"""Random inputs on which `verify` compares outputs."""
_AGAIN = 10
"""Further runs of a model whose outputs differ, which tell whether they change from run to run."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """Contents of a compressed file."""

    path: Path
    file_size: int
    """Bytes."""
    version: int
    """Of the container's format."""
    entries: tuple[native.Entry, ...]
    model_size: int
    """Bytes of the inner model, inflated."""
    plan: Plan


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of `verify`, which raises if a file has a fault."""

    entries: int
    weights_size: int
    """Bytes of all decoded weights."""
    identical_outputs: bool | None
    """Whether plain and compressed model gave the same bits on random inputs; None if they run on none."""


@dataclass(frozen=True, slots=True)
class _Compressed:
    """A compressed model's file."""

    path: Path
    size: int
    """Bytes, with its external data."""
    outer: onnx.ModelProto
    """Without the container."""
    container: memoryview
    """Where it is in the file."""


def inspect(model: str | os.PathLike[str]) -> Inspection:
    """Contents of the compressed model at `model`. Raises OnnxoptError if it is not compressed, or is damaged."""
    file = _compressed(model)
    with _open(file) as stored:
        return Inspection(
            path=file.path,
            file_size=file.size,
            version=stored.version,
            entries=tuple(stored.entries),
            model_size=len(stored.model),
            plan=Plan.from_json(stored.plan),
        )


def verify(model: str | os.PathLike[str]) -> Verification:
    """Checks every checksum, decodes all weights, and compares the model with its decompressed form.

    The model is loaded in every way in which users can load it (`runtime.sessions`). Inputs and outputs are compared by
    name, type and order; the values of outputs bit for bit, on random inputs.

    Raises OnnxoptError at the first fault.
    """
    path = Path(model)
    plain = decompress(path)
    with _open(_compressed(path)) as stored:
        sizes = [entry.size for entry in stored.entries if not entry.hidden]
        count = len(stored.entries)
    try:
        identical = _compare(path, quiet_session(plain.SerializeToString()))
    except OnnxoptError:
        raise
    except Exception as error:  # the runtime raises classes of its own
        raise ContainerError(f"{path}: ONNX Runtime refuses it: {first_line(error)}") from error
    return Verification(count, sum(sizes), identical)


def _compare(path: Path, plain: onnxruntime.InferenceSession) -> bool | None:
    """Compares the file, loaded as users load it, with its decompressed form: True, or None if no random input runs.

    Raises ContainerError if they differ, and what the runtime raises if the file does not load or run.
    """
    try:
        feeds = runnable_feeds(plain, _PROBES)
    except CannotRun:
        feeds = []
    names = [value.name for value in plain.get_outputs()]
    wanted = [plain.run(names, one) for one in feeds]
    for how, session in runtime.sessions(path):
        if fault := interface_fault(plain, session):
            raise ContainerError(f"{path}: {how}, {fault} as in the decompressed model")
        for one, values in zip(feeds, wanted, strict=True):
            name = first_difference(names, values, session.run(names, one))
            if name and not _changes(plain, session, one, values):
                raise ContainerError(f"{path}: {how}, output {name!r} differs from that of the decompressed model")
    return True if feeds else None


def _changes(
    plain: onnxruntime.InferenceSession,
    other: onnxruntime.InferenceSession,
    feeds: Mapping[str, Array],
    values: Sequence[Any],
) -> bool:
    """Whether the plain model's outputs are not always `values`: where they are random, or memory that no node wrote,
    which often holds the same. The other model runs in between, so that memory is used otherwise."""
    names = [value.name for value in plain.get_outputs()]
    for _ in range(_AGAIN):
        other.run(names, feeds)
        if first_difference(names, values, plain.run(names, feeds)):
            return True
    return False


def decompress(model: str | os.PathLike[str], output: str | os.PathLike[str] | None = None) -> onnx.ModelProto:
    """The plain model in a compressed one: standard ONNX with bit-identical outputs. Written to `output` if given.

    Raises OnnxoptError if `model` is not a compressed model, or is damaged.
    """
    with writing({"the output": None if output is None else Path(output)}):
        plain = _decompressed(_compressed(model))
        if output is not None:
            with write_atomically(output) as temporary:
                temporary.write_bytes(plain.SerializeToString(deterministic=True))
    return plain


def _decompressed(file: _Compressed) -> onnx.ModelProto:
    """The plain model in a compressed one; see `decompress`."""
    with _open(file) as stored:
        try:
            inner = onnx.load_model_from_string(stored.model)
        except DecodeError as error:
            raise ContainerError(f"the model inside is no ONNX model ({error})") from error
        weights = stored.decode()
        crc = 0
        for values in weights.values():
            crc = zlib.crc32(native.file_bytes(values), crc)
        if crc != stored.values_crc:
            raise ContainerError("decoded weights are not those that were stored (checksum mismatch)")
    embed(inner, weights)
    if missing := [t.name for t in inner.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL]:
        raise ContainerError(f"{file.path}: the model inside has weights that the container lacks: {missing[0]!r}")
    return join(file.outer, inner)


def _compressed(model: str | os.PathLike[str]) -> _Compressed:
    path = Path(model)
    reading([path])
    try:
        opened = open_compressed(os.fspath(path))
    except (DecodeError, OSError, ValueError):
        opened = None
    except OnnxoptError as error:
        raise ContainerError(f"{path}: {error}") from error
    if opened is None:
        read(path)  # which says what is wrong with it
        raise OnnxoptError(f"{path}: is a plain ONNX model; expected one that `onnxopt optimize` wrote")
    outer, container = opened
    names = {entry.value for tensor in outer.graph.initializer for entry in tensor.external_data
             if entry.key == "location"}  # fmt: skip
    files = [path, *(path.parent / name for name in names)]
    reading(files)
    return _Compressed(path, sum(file.stat().st_size for file in files), outer, container)


@contextmanager
def _open(file: _Compressed) -> Iterator[native.Container]:
    """The container in a compressed model; its errors are raised with the name of the file."""
    try:
        with native.Container(file.container) as stored:
            yield stored
    except OnnxoptError as error:
        raise ContainerError(f"{file.path}: {error}") from error
