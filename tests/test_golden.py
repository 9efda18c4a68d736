"""Bytes that must never change: stored files decode to their values, and these values code to the same bytes."""

from __future__ import annotations

import zlib
from struct import unpack

import numpy as np
import pytest
from golden import values

from onnxopt import native
from onnxopt.build import container

NAMES = sorted(values.files())


def _stored(name: str) -> bytes:
    return (values.HERE / f"{name}.bin").read_bytes()


def test_every_file_is_known() -> None:
    assert sorted(path.stem for path in values.HERE.glob("*.bin")) == NAMES


@pytest.mark.parametrize("codec", values.INTEGER_CODECS)
@pytest.mark.parametrize("name", values.integers())
def test_integers(codec: str, name: str) -> None:
    q = values.integers()[name]
    stored = _stored(f"{codec}.{name}")
    for simd in ("scalar", None):
        native.set_simd(simd)
        assert np.array_equal(native.decode(codec, stored, *q.shape), q)
    assert native.encode(q, codec)[1] == stored


@pytest.mark.parametrize("name", values.elements())
def test_elements(name: str) -> None:
    elements = values.elements()[name]
    stored = _stored(f"lossless.{name}")
    assert native.decode_lossless(stored, elements.dtype, *elements.shape).tobytes() == elements.tobytes()
    assert native.encode_lossless(elements) == stored


def test_container_reads() -> None:
    with native.Container(_stored("container")) as stored:
        decoded = stored.decode()
        assert (stored.version, stored.model, stored.plan) == (1, values.MODEL, values.PLAN)
    assert list(decoded) == list(values.encodings())
    for name, weight in values.encodings().items():
        wanted = weight.values()
        assert (decoded[name].shape, decoded[name].dtype) == (wanted.shape, wanted.dtype)
        assert decoded[name].tobytes() == wanted.tobytes()


def test_container_bytes() -> None:
    """All of it, the metadata inflated: zlib's versions differ in how they deflate."""
    assert _parts(container.write(values.MODEL, values.encodings(), values.PLAN)) == _parts(_stored("container"))


def _parts(data: bytes) -> tuple[object, ...]:
    packed, inflated, size = unpack("<QQQ", data[16:40])
    meta = zlib.decompress(data[52 : 52 + packed], -15)
    assert len(meta) == inflated
    return data[:16], size, data[44:48], meta, data[52 + packed :]
