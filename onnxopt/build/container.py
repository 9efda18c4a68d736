"""The writer of the container format (FORMAT.md). It depends on encodings and codecs, not on passes or graphs.

The reader is native (`onnxopt.native.Container`) and serves both Python and devices.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from struct import pack
from typing import Self

import numpy as np
import onnx

from onnxopt import native
from onnxopt.build.packed import Chunk, Packed
from onnxopt.build.relatives import Relation, relations
from onnxopt.build.splicing import acceptable, splice
from onnxopt.encoding import Array, Encoding, Reconstruction, UncodedEntry
from onnxopt.errors import OnnxoptError
from onnxopt.files import Spool
from onnxopt.native import varint

MAGIC = b"onnxopt\0"
VERSIONS = 1, 2, 3
"""A file says the first that has all it uses."""
NEWER = {"adaptive": VERSIONS[2]}
"""Codecs that the first version lacks, and the one that has them."""
MOST = 2048
"""Elements for each byte of a chunk: of more, readers refuse it."""
INTEGERS = frozenset(map(np.dtype, (np.int8, np.int16, np.int32)))
"""Types of elements for integer codecs."""
CHUNK = 1 << 20
"""Elements per coded chunk: large enough that tables cost next to nothing, small enough to keep every core busy."""


@dataclass(frozen=True, slots=True)
class _Record:
    """One row of the entry table, before its chunks are coded."""

    name: str
    """Empty for scales and tables."""
    entry: UncodedEntry
    auxiliary: int | None = None
    """Index of the entry with the scales or the table, or of the other weight in `relation`."""
    relation: Relation | None = None

    @property
    def version(self) -> int:
        """Of the format, at least."""
        new = self.relation is not None or self.entry.dtype in native.EIGHT_BITS | native.PAIRED
        return VERSIONS[1 if new else 0]


@dataclass(frozen=True, slots=True)
class _Coded:
    """An entry's chunks."""

    codec: str
    chunk_rows: int
    chunks: list[bytes]
    version: int
    """Of the format, at least."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.chunks))


@dataclass(frozen=True, slots=True)
class _Kept:
    """An entry's chunks, kept until they are written."""

    codec: str
    chunk_rows: int
    chunks: list[Chunk]
    version: int
    """Of the format, at least."""

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(chunk.size for chunk in self.chunks)

    @classmethod
    def of(cls, coded: _Coded, spool: Spool | None = None) -> Self:
        """Keeps chunks, on the disk if there is a spool."""
        return cls(coded.codec, coded.chunk_rows, [Chunk.of(one, spool) for one in coded.chunks], coded.version)


_Rows = Sequence[tuple[_Record, _Kept]]


@dataclass(slots=True)
class Known:
    """Chunks of elements that are stored as they are: trials of one model have most in common."""

    spool: Callable[[], Spool] | None = None
    """Makes a place for chunks of a large model; by default, they stay in memory."""
    lasting: Spool | None = None
    """The place of those that are known."""
    kept: dict[tuple[object, ...], _Kept] = field(default_factory=dict)
    """By what decides on them."""


def write(model: bytes, weights: Mapping[str, Encoding], plan: str, prefer: str = "balanced") -> bytes:
    """`packed`, as bytes."""
    return b"".join(packed(model, weights, plan, prefer).pieces())


def packed(
    model: bytes,
    weights: Mapping[str, Encoding],
    plan: str,
    prefer: str = "balanced",
    advance: Callable[[str], None] | None = None,
    known: Known | None = None,
) -> Packed:
    """The container of an inner model, its weights and the plan that produced them.

    Arguments:
        model: the inner ONNX model, serialized; its initializers named in `weights` are external-data references.
        weights: every stored weight by name; none may be empty or a scalar.
        plan: JSON, kept verbatim.
        prefer: what codec selection favours, one of `native.PREFERENCES`.
        advance: called with the name of each stored weight after coding.
        known: of earlier containers; this one adds its own.

    Raises OnnxoptError if the disk is full.
    """
    records, known = list(_records(weights)), known or Known()
    spool = None if known.spool is None else known.spool()  # of this container alone
    if known.spool is not None and known.lasting is None:
        known.lasting = known.spool()
    with ThreadPoolExecutor() as pool:
        futures = {pool.submit(_code, record, prefer, known, spool): record for record in records}
        for future in as_completed(futures):
            future.result()  # raises what went wrong
            if advance and (name := futures[future].name):
                advance(name)
    rows = [(record, future.result()) for future, record in futures.items()]
    values_crc = 0
    for weight in weights.values():
        values_crc = zlib.crc32(native.file_bytes(weight.run_time_tensor()), values_crc)
    forms = _forms(model, plan.encode(), rows, values_crc)
    return min((_joined(head, of) for head, of in forms), key=lambda one: one.size)


def _joined(head: bytes, rows: _Rows) -> Packed:
    sizes, codecs, counted = dict[str, int](), dict[str, str](), set[int]()
    for record, kept in rows:
        if record.name:
            sizes[record.name], codecs[record.name] = kept.size, kept.codec
            if record.auxiliary is not None and record.relation is None and record.auxiliary not in counted:
                counted.add(record.auxiliary)
                sizes[record.name] += rows[record.auxiliary][1].size
    return Packed(head, [chunk for _, kept in rows for chunk in kept.chunks], sizes, codecs)


def _forms(model: bytes, plan: bytes, rows: _Rows, values_crc: int) -> Iterator[tuple[bytes, _Rows]]:
    """Containers: of version 1 if possible, and with numbers of the inner model in entries.

    Yields what precedes the data, and the rows whose chunks are the data.
    """
    yield _head(VERSIONS[0], (model, b"", plan), rows, values_crc), rows
    spliced = splice(model, len(rows))
    pieces = [_Record("", entry) for entry in spliced.entries]
    added = [(piece, _Kept.of(_chosen(piece, "smallest"))) for piece in pieces]
    if added and all(acceptable(piece.entry, kept.size) for piece, kept in added):
        rows = [*rows, *added]
        yield _head(VERSIONS[1], (spliced.rest, spliced.splices, plan), rows, values_crc), rows


def _head(oldest: int, inner: tuple[bytes, bytes, bytes], rows: _Rows, values_crc: int) -> bytes:
    """The header and the metadata, of version `oldest` or the first that has all that the entries use.

    `inner` is the model, its splices and the plan.
    """
    model, splices, plan = inner
    version = max([oldest, *(max(record.version, kept.version) for record, kept in rows)])
    table = b"".join(itertools.starmap(_table_row, rows))
    size = sum(kept.size for _, kept in rows)
    sizes = [len(table), len(model), *([] if version == VERSIONS[0] else [len(splices)])]
    meta = b"".join(map(varint, sizes)) + table + model + splices + plan
    deflated = _deflate(meta)
    header = MAGIC + pack("<HHI", version, 0, len(rows)) + pack("<QQQ", len(deflated), len(meta), size)
    header += pack("<II", zlib.crc32(deflated), values_crc)
    return header + pack("<I", zlib.crc32(header)) + deflated


def _deflate(data: bytes) -> bytes:
    """The shortest zlib stream over all memory levels, which determine where blocks with new tables can start."""
    streams = (
        zlib.compressobj(9, zlib.DEFLATED, -15, level) for level in range(4, 10)
    )  # raw: the container has checksums
    return min((deflate.compress(data) + deflate.flush() for deflate in streams), key=len)


def _records(weights: Mapping[str, Encoding]) -> Iterator[_Record]:
    """The entries in file order. Scales and tables precede the first weight that uses them and are shared by all."""
    indices: dict[tuple[object, ...], int] = {}
    numbers: dict[str, int] = {}
    related = relations(weights)
    count = 0
    for name, weight in weights.items():
        *before, own = weight.entries()
        auxiliary, relation = None, related.get(name)
        for entry in before:
            if entry.key not in indices:
                indices[entry.key] = count
                yield _Record("", entry)
                count += 1
            auxiliary = indices[entry.key]
        if relation is not None:
            own = UncodedEntry(own.dtype, relation.steps, Reconstruction.RELATIVE)
            auxiliary = numbers[relation.other]
        yield _Record(name, own, auxiliary, relation)
        numbers[name] = count
        count += 1


def _code(record: _Record, prefer: str, known: Known, spool: Spool | None) -> _Kept:
    """`_chosen`, unless it is known."""
    entry = record.entry
    if entry.reconstruction or not record.name:
        return _Kept.of(_chosen(record, prefer), spool)
    digest = hashlib.sha256(entry.matrix.view(np.uint8).data).digest()
    asked = digest, entry.dtype, entry.elements.dtype, entry.elements.shape, entry.axis, entry.dims, prefer
    if asked not in known.kept:
        known.kept[asked] = _Kept.of(_chosen(record, prefer), known.lasting)
    return known.kept[asked]


def _chosen(record: _Record, prefer: str) -> _Coded:
    """The codec selected for one entry, its rows per chunk, and its coded chunks."""
    entry = record.entry
    elements = entry.matrix
    rows, cols = elements.shape
    chunk_rows = max(1, min(rows, CHUNK // cols))
    inner = cols if entry.dims else entry.shape[-1]
    if elements.dtype == np.uint8:  # floats of 8 bits, or pairs
        lossless = _lossless(elements, chunk_rows, inner)
        return min(_integers(elements, chunk_rows, prefer), lossless, key=lambda coded: coded.size)
    if elements.dtype not in INTEGERS:
        return _lossless(elements, chunk_rows, inner)
    if entry.reconstruction or not record.name:
        return _integers(elements, chunk_rows, prefer)
    integers = _integers(elements, chunk_rows, "quick" if prefer == "balanced" else prefer)
    return min(integers, _lossless(elements.astype(entry.dtype), chunk_rows, inner), key=lambda coded: coded.size)


def _lossless(elements: Array, chunk_rows: int, inner: int) -> _Coded:
    """Elements bit for bit; all in one chunk where repeats that are far apart make that smaller."""
    apart = _streams([native.lossless_stream(part, inner) for part in _parts(elements, chunk_rows)], chunk_rows)
    if len(apart.chunks) == 1 or not native.repeats_far(elements, chunk_rows * elements.shape[1]):
        return apart
    return min(apart, _streams([native.lossless_stream(elements, inner)], len(elements)), key=lambda one: one.size)


def _streams(streams: list[native.Stream], chunk_rows: int) -> _Coded:
    return _Coded("lossless", chunk_rows, [one.data for one in streams], max(one.version for one in streams))


def _integers(q: Array, chunk_rows: int, prefer: str) -> _Coded:
    parts = _parts(q, chunk_rows)
    codec, data = native.encode(parts[0], prefer=prefer)
    try:
        chunks = [data, *(native.encode(part, codec)[1] for part in parts[1:])]
        held = all(len(chunk) * MOST >= part.size for chunk, part in zip(chunks, parts, strict=True))
    except OnnxoptError:
        held = False
    if not held:  # the first chunk's codec cannot code a later chunk; this one can
        codec, chunks = "context", [native.encode(part, "context")[1] for part in parts]
    return _Coded(codec, chunk_rows, chunks, NEWER.get(codec, VERSIONS[0]))


def _parts(matrix: Array, rows: int) -> list[Array]:
    return [matrix[at : at + rows] for at in range(0, len(matrix), rows)]


def _table_row(record: _Record, kept: _Kept) -> bytes:
    entry, name = record.entry, record.name.encode()
    dtype, dims = onnx.helper.np_dtype_to_tensor_dtype(entry.dtype), entry.shape
    out = varint(len(name)) + name + bytes((dtype, len(dims)))
    out += b"".join(map(varint, dims))
    out += bytes((entry.reconstruction, entry.axis, native.CODECS[kept.codec]))
    out += b"" if record.auxiliary is None else varint(record.auxiliary)
    out += b"" if record.relation is None else record.relation.fields()
    out += varint(kept.chunk_rows)
    return out + b"".join(varint(chunk.size) + pack("<I", chunk.crc) for chunk in kept.chunks)
