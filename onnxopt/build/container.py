"""The writer of the container format (FORMAT.md). It depends on encodings and codecs, not on passes or graphs.

The reader is native (`onnxopt.native.Container`) and serves both Python and devices.
"""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from struct import pack

import numpy as np
import onnx

from onnxopt import native
from onnxopt.build.relatives import Relation, relations
from onnxopt.build.splicing import acceptable, splice
from onnxopt.encoding import Array, Encoding, Reconstruction, UncodedEntry
from onnxopt.errors import OnnxoptError
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


_Rows = Sequence[tuple[_Record, _Coded]]
Known = dict[tuple[object, ...], _Coded]
"""Chunks of elements that are stored as they are, by what decides on them: trials of one model have most in common."""


def write(
    model: bytes,
    weights: Mapping[str, Encoding],
    plan: str,
    prefer: str = "balanced",
    advance: Callable[[str], None] | None = None,
    known: Known | None = None,
) -> bytes:
    """Writes the container of an inner model, its weights and the plan that produced them.

    Arguments:
        model: the inner ONNX model, serialized; its initializers named in `weights` are external-data references.
        weights: every stored weight by name; none may be empty or a scalar.
        plan: JSON, kept verbatim.
        prefer: what codec selection favours, one of `native.PREFERENCES`.
        advance: called with the name of each stored weight after coding.
        known: of earlier containers; this one adds its own.
    """
    records, known = list(_records(weights)), {} if known is None else known
    with ThreadPoolExecutor() as pool:
        futures = [pool.submit(_code, record, prefer, known) for record in records]
        coded = []
        for record, future in zip(records, futures, strict=True):
            coded.append(future.result())
            if advance and record.name:
                advance(record.name)
    values_crc = 0
    for weight in weights.values():
        values_crc = zlib.crc32(native.file_bytes(weight.run_time_tensor()), values_crc)
    head, rows = min(
        _forms(model, plan.encode(), records, coded, values_crc),
        key=lambda form: len(form[0]) + sum(entry.size for _, entry in form[1]),
    )
    return b"".join([head, *(chunk for _, entry in rows for chunk in entry.chunks)])


def _forms(
    model: bytes, plan: bytes, records: list[_Record], coded: list[_Coded], values_crc: int
) -> Iterator[tuple[bytes, _Rows]]:
    """Containers: of version 1 if possible, and with numbers of the inner model in entries.

    Yields what precedes the data, and the entries whose chunks are the data.
    """
    rows = list(zip(records, coded, strict=True))
    yield _head(VERSIONS[0], (model, b"", plan), rows, values_crc), rows
    spliced = splice(model, len(records))
    pieces = [_Record("", entry) for entry in spliced.entries]
    coded_pieces = [_code(piece, "smallest", {}) for piece in pieces]
    if pieces and all(acceptable(piece.entry, one.size) for piece, one in zip(pieces, coded_pieces, strict=True)):
        rows = [*rows, *zip(pieces, coded_pieces, strict=True)]
        yield _head(VERSIONS[1], (spliced.rest, spliced.splices, plan), rows, values_crc), rows


def _head(oldest: int, inner: tuple[bytes, bytes, bytes], rows: _Rows, values_crc: int) -> bytes:
    """The header and the metadata, of version `oldest` or the first that has all that the entries use.

    `inner` is the model, its splices and the plan.
    """
    model, splices, plan = inner
    version = max([oldest, *(max(record.version, entry.version) for record, entry in rows)])
    table = b"".join(itertools.starmap(_table_row, rows))
    size = sum(entry.size for _, entry in rows)
    sizes = [len(table), len(model), *([] if version == VERSIONS[0] else [len(splices)])]
    meta = b"".join(map(varint, sizes)) + table + model + splices + plan
    packed = _deflate(meta)
    header = MAGIC + pack("<HHI", version, 0, len(rows)) + pack("<QQQ", len(packed), len(meta), size)
    header += pack("<II", zlib.crc32(packed), values_crc)
    return header + pack("<I", zlib.crc32(header)) + packed


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


def _code(record: _Record, prefer: str, known: Known) -> _Coded:
    """`_chosen`, unless it is known."""
    entry = record.entry
    if entry.reconstruction or not record.name:
        return _chosen(record, prefer)
    digest = hashlib.sha256(entry.matrix.view(np.uint8).data).digest()
    asked = digest, entry.dtype, entry.elements.dtype, entry.elements.shape, entry.axis, entry.dims, prefer
    if asked not in known:
        known[asked] = _chosen(record, prefer)
    return known[asked]


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


def _table_row(record: _Record, coded: _Coded) -> bytes:
    name = record.name.encode()
    entry = record.entry
    dtype, dims = onnx.helper.np_dtype_to_tensor_dtype(entry.dtype), entry.shape
    row = varint(len(name)) + name + bytes((dtype, len(dims)))
    row += b"".join(map(varint, dims))
    row += bytes((entry.reconstruction, entry.axis, native.CODECS[coded.codec]))
    row += b"" if record.auxiliary is None else varint(record.auxiliary)
    row += b"" if record.relation is None else record.relation.fields()
    row += varint(coded.chunk_rows)
    return row + b"".join(varint(len(chunk)) + pack("<I", zlib.crc32(chunk)) for chunk in coded.chunks)
