"""Codec 6, adaptive: a reference decoder written from docs/format/adaptive.md, for tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from fields import Fields

ESCAPE, FLOOR, FREE = 15, 9, (1 << 15) - 16 * 9


def _step(delta: int, n: int) -> int:
    return delta * ((1 << 16) // (2 * n + 3)) >> 15


def _log2(v: int) -> int:
    n = v.bit_length() - 1
    return 2 * n + ((2 * v >> n) & 1)


def _followed(mean: int, value: int, n: int) -> int:
    return max(mean + _step(value - mean, n), 1)


class Plain:
    """Bits as they are, the least significant first."""

    def __init__(self, data: bytes) -> None:
        self.left, self.rest = 8 * len(data), int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """The next `count`."""
        self.left -= count
        value = self.rest & ((1 << count) - 1)
        self.rest >>= count
        return value


class Stream:
    """The rANS decoder."""

    def __init__(self, data: bytes) -> None:
        first = len(data) if len(data) <= 8 else 5 + (len(data) - 5) % 4
        self.state = int.from_bytes(data[:first], "little")
        self.words = [data[at : at + 4] for at in range(first, len(data), 4)]

    def slot(self, bits: int) -> int:
        """What tells the next symbol."""
        return self.state & ((1 << bits) - 1)

    def consume(self, bits: int, first: int, count: int) -> None:
        """A symbol of `count` slots from `first` on."""
        self.state = count * (self.state >> bits) + self.slot(bits) - first

    def refill(self) -> None:
        """After each integer."""
        if self.state < 1 << 31 and self.words:
            self.state = self.state << 32 | int.from_bytes(self.words.pop(0), "little")


@dataclass
class Tokens:
    """Shares of tokens in one context."""

    shares: list[int]
    seen: int

    def update(self, token: int) -> None:
        """After it was seen."""
        r = ((3 * self.seen + 3) >> 1).bit_length() - 1
        for t in range(16):
            certain = FLOOR * t + (FREE if t > token else 0)
            self.shares[t] += certain - self.shares[t] + (1 << r >> 1) >> r
        self.seen = min(self.seen + 1, 85)


@dataclass
class Column:
    """What is remembered of one column."""

    mean: int
    magnitude: int = 0
    sign: int = 0


class Decoder:
    """One matrix."""

    def __init__(self, data: bytes, cols: int) -> None:
        fields = Fields(data)
        scale, nonzero, flags = fields.u8(), fields.u8(), fields.u8()
        self.distance, detail = flags & 15, flags >> 5
        self.centre = fields.svarint() if flags & 16 else 0
        self.stream = Stream(fields.bytes(fields.varint()))
        self.plain = Plain(fields.rest())
        excess = (4 + scale % 4) << scale // 4
        self.first, self.extra = [0], [0]
        for t in range(1, 16):
            self.first.append(self.first[-1] + (1 << self.extra[-1]))
            self.extra.append(0 if t == ESCAPE else max(self.first[t].bit_length() - 1 - detail, 0))
        self.start = self._start(excess, nonzero)
        self.mean = min(max((excess + 256) * (2 * nonzero + 1) >> 9, 1), 1 << 24)
        self.columns = [Column(self.mean) for _ in range(cols)]
        self.contexts: dict[tuple[str, int], Tokens] = {}
        self.signs: dict[int, tuple[int, int]] = {}

    def _start(self, excess: int, nonzero: int) -> list[int]:
        shares = [0]
        for first in self.first[1:]:
            power, beyond, steps = ((excess << 24) // (excess + 256)) << 8, (2 * nonzero + 1) << 23, first - 1
            while steps:
                beyond = beyond * power >> 32 if steps & 1 else beyond
                power, steps = power * power >> 32, steps >> 1
            shares.append((((1 << 32) - beyond) * FREE >> 32) + FLOOR * len(shares))
        return [*shares, 1 << 15]

    def _context(self, key: tuple[str, int], other: tuple[str, int]) -> Tokens:
        if key not in self.contexts:
            start = self.contexts.get(other, Tokens(self.start, 6))
            self.contexts[key] = Tokens(list(start.shares), min(start.seen, 6))
        return self.contexts[key]

    def _token(self, level: int, local: int) -> int:
        keys = ("level", level), ("local", local)
        pair = self._context(*keys), self._context(*reversed(keys))
        shares = [(a + b) >> 1 for a, b in zip(pair[0].shares, pair[1].shares, strict=True)]
        token = max(t for t in range(16) if shares[t] <= self.stream.slot(15))
        self.stream.consume(15, shares[token], shares[token + 1] - shares[token])
        for one in pair:
            one.update(token)
        return token

    def _sign(self, number: int) -> int:
        p, seen = self.signs.get(number, (1 << 15, 2))
        negative = int(self.stream.slot(16) < p)
        self.stream.consume(16, *((0, p) if negative else (p, (1 << 16) - p)))
        p = min(max(p + _step((negative << 16) - p, seen), 192), (1 << 16) - 192)
        self.signs[number] = p, min(seen + 1, 256)
        return negative

    def row(self, r: int) -> list[int]:
        """The next one."""
        row_mean = before = self.mean
        base, left, left2, s_left = _log2(self.mean), 0, 0, 0
        out = []
        for c, here in enumerate(self.columns):
            far = self.columns[c - self.distance] if c >= self.distance else Column(0, here.magnitude)
            near = 2 * left + left2 + 2 * here.magnitude + far.magnitude
            level = min(max(_log2(before * here.mean) - base, 0), 47)
            token = self._token(level, min(_log2(near + 1), 31))
            negative = self._sign(s_left + 3 * here.sign + 9 * far.sign) if token else 1
            self.stream.refill()
            m = self.first[token] + self.plain.take(self.extra[token])
            seen = self.first[token] + (1 << self.extra[token] >> 1)
            if token == ESCAPE:
                k = self.plain.take(5)
                m = self.first[ESCAPE] - 1 + (1 << k) + self.plain.take(k)
                seen = min(m, 1 << 16)
            out.append((-m if negative else m) + self.centre)
            left, left2, s_left = seen, left, 1 + negative if token else 0
            before, row_mean = row_mean, _followed(row_mean, seen << 8, min(8 + c, 64))
            here.mean = _followed(here.mean, seen << 8, min(4 + r, 32))
            here.magnitude, here.sign = seen, s_left
        self.mean = _followed(self.mean, row_mean, min(r, 4))
        return out


def decode(data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """The integers ``q[rows, cols]``."""
    decoder = Decoder(data, cols)
    q = np.array([decoder.row(r) for r in range(rows)], np.int64).reshape(rows, cols)
    assert decoder.stream.state == 0
    assert not decoder.stream.words
    assert decoder.plain.left < 8
    assert decoder.plain.rest == 0
    return ((q + (1 << 31)) % (1 << 32) - (1 << 31)).astype(np.int32)
