"""Lies of the inner model, and of the model around the container."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

from building import (
    FLOAT,
    INT8,
    NODE,
    TOO_MANY,
    UINT8,
    Box,
    Lie,
    external,
    inner_model,
    model_of,
    outer_model,
    payload,
    proto,
    varint,
)


def models() -> Iterator[Lie]:
    yield "values_checksum", Box(values_crc=1), "weights that the checksum of all denies", ""
    yield (
        "inner_garbage",
        Box(values_crc=zlib.crc32(bytes(range(1, 7))), model=b"\xff\xff\xff"),
        "an inner model that is none",
        "",
    )
    elsewhere = (
        proto(1, 10) + proto(2, INT8) + proto(8, b"v") + proto(13, proto(1, b"location") + proto(2, b"/etc/hostname"))
    )
    outside = Box(values_crc=zlib.crc32(bytes(range(1, 7))), model=inner_model(proto(5, elsewhere + proto(14, 1))))
    yield "inner_external", outside, "an inner weight that is a file of the reader's machine", ""


def outer() -> Iterator[tuple[str, bytes, str, str]]:
    good = Box().build()
    for size in (0, 7, 8, 12, 51, 52, 60, len(good) - 1):
        yield f"truncated_{size}", outer_model(payload(good[:size])), f"a container of {size} bytes", ""
    yield "bare_truncated", good[:40], "half a header and no model around it", "not"
    yield "empty", b"", "no bytes", "not a"
    model = outer_model(payload(good))
    yield "outer_truncated", model[:-70], "a model that ends inside its graph", "not a compressed"
    yield "outer_no_payload", outer_model(proto(2, UINT8) + proto(8, b"other")), "no container", "no compressed model"
    yield "outer_no_node", outer_model(payload(good), proto(4, b"Identity")), "no node of ours", "no compressed model"
    yield (
        "outer_domain",
        outer_model(payload(good), NODE + proto(7, b"elsewhere")),
        "a node of another domain",
        "no compressed model",
    )
    yield "outer_dtype", outer_model(payload(good, FLOAT)), "a container of float32", "element type 1"
    yield "outer_no_dtype", outer_model(payload(good, 0)), "a container of no type", "element type 0"
    yield (
        "outer_raw_twice",
        outer_model(payload(good) + proto(9, b"onnxopt\0junk")),
        "two contents, of which the last counts",
        "not an onnxopt container",
    )
    long = proto(1, NODE) + varint(5 << 3 | 2) + varint(TOO_MANY) + payload(good)
    yield "outer_length", model_of(long), "a tensor of 2^60 bytes", "not a compressed"
    wrap = varint(7 << 3 | 2) + varint(2**64 - 1) + proto(1, NODE)
    yield "outer_length_wraps", wrap, "a graph of 2^64 - 1 bytes", "not a compressed"
    yield "outer_varint", b"\x08" + b"\xff" * 11 + model, "a varint of eleven bytes", "not a compressed"
    yield "outer_wire_type", b"\x0f" + model, "wire type 7", "wire type 7"
    yield "outer_group", b"\x0b" * 5000 + model, "5000 nested groups", "wire type 3"
    yield "outer_field_zero", b"\x00\x00" + model, "field 0", "field"
    deep = b""
    for _ in range(2000):
        deep = proto(5, proto(6, proto(1, deep)))  # node: attribute: graph
    yield "outer_deep", model_of(proto(1, deep[:60_000])), "graphs within graphs", "not a compressed"
    yield "external_up", outer_model(external(b"../../../etc/hostname")), "a container outside the model's folder", ""
    yield "external_root", outer_model(external(b"/etc/hostname")), "a container at an absolute path", ""
    huge = external(b"x.bin", (b"offset", b"9" * 40))
    yield "external_offset", outer_model(huge), "an offset that is no 64-bit number", "no number"
    negative = external(b"x.bin", (b"length", b"-1"))
    yield "external_length", outer_model(negative), "length -1", "no number"
