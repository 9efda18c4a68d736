"""A container in pieces. Those of a large model are on the disk."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from onnxopt.files import Spool


@dataclass(frozen=True, slots=True)
class Chunk:
    """A coded chunk of an entry."""

    size: int
    """Bytes."""
    crc: int
    """Its CRC-32."""
    read: Callable[[], bytes]
    """Gives its bytes."""

    @classmethod
    def of(cls, data: bytes, spool: Spool | None = None) -> Self:
        """Keeps a chunk: on the disk, if there is a spool. Raises OnnxoptError if the disk is full."""
        read = (lambda: data) if spool is None else spool.put(data)
        return cls(len(data), zlib.crc32(data), read)


@dataclass(frozen=True, slots=True)
class Packed:
    """A container."""

    head: bytes
    """All that precedes the chunks."""
    chunks: Sequence[Chunk]
    sizes: Mapping[str, int]
    """Bytes of each weight's chunks, by name, with those of its scales or its table. Equal scales are stored once."""
    codecs: Mapping[str, str]
    """By name of a weight."""

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.head) + sum(chunk.size for chunk in self.chunks)

    def pieces(self) -> Iterator[bytes]:
        """All bytes, in order."""
        yield self.head
        for chunk in self.chunks:
            yield chunk.read()
