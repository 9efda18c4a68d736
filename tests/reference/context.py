"""Codec 4, context: a reference decoder written from docs/format/context.md, for tests."""

import math
from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from fields import Fields

HALF, ONE, FLOOR = 1 << 15, 1 << 16, 192
ODDS = 6 * 256 - 1
TOP = (1 << 48) - 1
ROW_CAP, COLUMN_CAP = 64, 32  # observations that running means of magnitudes remember
KNOTS = [min(ONE - 1, round(ONE / (1 + math.exp(-k / 8)))) for k in range(49)]


def _logistic(odds: int) -> int:
    x = abs(odds)
    k = min(x >> 5, 47)
    p = KNOTS[k] + ((KNOTS[k + 1] - KNOTS[k]) * (x - 32 * k) >> 5)
    return ONE - p if odds < 0 else p


def _stretch_table() -> list[int]:
    table, d = [], -ODDS
    for p in range(4096):
        while d < ODDS and _logistic(d) < 16 * p + 8:
            d += 1
        table.append(d)
    return table


STRETCH = _stretch_table()


def _step(delta: int, n: int) -> int:
    return delta * (ONE // (2 * n + 3)) >> 15


def _floored(p: int) -> int:
    return min(max(p, FLOOR), ONE - FLOOR)


def _log2(v: int, bits: int) -> int:
    whole = v.bit_length() - 1
    return (whole << bits) + ((v << bits >> whole) & ((1 << bits) - 1))


@dataclass
class Bit:
    """An adaptive probability of a decision."""

    fast: int = HALF
    slow: int = HALF
    seen: int = 0

    def p(self) -> int:
        """Of the decision being 1, in 1/2^16."""
        return (self.fast + self.slow) >> 1

    def update(self, bit: int) -> None:
        """Learn what the decision was."""
        target = ONE - 1 if bit else 0
        self.fast += _step(target - self.fast, min(self.seen, 32))
        self.slow += _step(target - self.slow, self.seen)
        self.seen = min(self.seen + 1, 256)


def _first_guess(p32: int) -> Bit:
    p = _floored(p32 >> 16)
    return Bit(p, p, 8)


class RangeDecoder:
    """Binary decisions out of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data + bytes(6)
        self._size = len(data)
        self._at = 6
        self._range = TOP
        self._code = int.from_bytes(self._data[:6], "big")

    def code(self, p: int) -> int:
        """A decision whose probability of being 1 is p / 2^16."""
        split = (self._range >> 16) * p
        bit = self._code < split
        if bit:
            self._range = split
        else:
            self._code -= split
            self._range -= split
        if self._range < 1 << 32:
            self._range <<= 16
            self._code = self._code << 16 | int.from_bytes(self._data[self._at : self._at + 2], "big")
            self._at += 2
        return int(bit)

    def finish(self) -> None:
        """Check that exactly all bytes were used."""
        written = 1 if self._range >= 1 << 40 else 2
        assert self._at - 6 + written == self._size


@dataclass
class Column:
    """What is known of a column."""

    mean: int
    magnitude: int = 0
    sign: int = 0


@dataclass
class Mixer:
    """Weights of three predictions."""

    weight: list[int] = field(default_factory=lambda: [19661, 26214, 19661])

    def code(self, coder: RangeDecoder, bits: list[Bit]) -> int:
        """A decision predicted by `bits` together."""
        odds = [STRETCH[b.p() >> 4] for b in bits]
        total = sum(w * o for w, o in zip(self.weight, odds, strict=True)) >> 16
        p = _floored(_logistic(min(max(total, -ODDS), ODDS)))
        bit = coder.code(p)
        error = (bit << 16) - p
        limit = 1 << 20
        self.weight = [min(max(w + (error * o >> 16), -limit), limit) for w, o in zip(self.weight, odds, strict=True)]
        for b in bits:
            b.update(bit)
        return bit


class Model:
    """The model of one integer after another."""

    def __init__(self, cols: int, scale: int, nonzero: int, centre: int, distance: int) -> None:
        excess = (4 + scale % 4) << scale // 4
        power = [((excess << 24) // (excess + 256)) << 8]
        for _ in range(31):
            power.append(power[-1] * power[-1] >> 32)
        beyond = [(2 * nonzero + 1) << 23]
        for b in range(16):
            beyond.append(beyond[-1] * power[b] >> 32)
        self.start = 1
        while self.start < 15 and beyond[self.start] >= 1 << 31:
            self.start += 1
        self.plain: list[Bit] = []
        self.mantissa: dict[tuple[int, int], Bit] = defaultdict(Bit)
        for b in range(16):
            p = beyond[b]
            if b + 1 < self.start:
                p = ((beyond[b] - beyond[b + 1]) << 32) // ((1 << 32) - beyond[b + 1])
            if b + 1 > self.start:
                p = power[b - 1]
            self.plain.append(_first_guess(p))
            for node in range(1, 8):
                depth = node.bit_length()
                if b > depth:
                    t = power[b - 1 - depth]
                    self.mantissa[b, node] = _first_guess(((t << 16) // ((1 << 32) + t)) << 16)
        self.ones: dict[tuple[int, int], Bit] = defaultdict(Bit)
        self.sign = [Bit(HALF, HALF, 2) for _ in range(27)]
        self.mixer = [Mixer() for _ in range(16)]
        self.level: dict[int, list[Bit]] = {}
        self.local: dict[int, list[Bit]] = {}
        self.mean = min(max((excess + 256) * (2 * nonzero + 1) >> 9, 1), 1 << 24)
        self.seen, self.column_seen = 0, 3
        self.columns = [Column(self.mean) for _ in range(cols)]
        self.centre, self.distance = centre, distance

    def start_row(self) -> None:
        """Forget the left neighbours."""
        self.left = self.left2 = self.left_sign = 0
        self.row_mean, self.row_seen = self.mean, 8
        self.base = _log2(self.mean, 5)
        self.column_seen = min(self.column_seen + 1, COLUMN_CAP)

    def _set(self, sets: dict[int, list[Bit]], key: int) -> list[Bit]:
        if key not in sets:
            sets[key] = [Bit(b.fast, b.slow, min(b.seen, 2)) for b in self.plain]
        return sets[key]

    def _bucket(self, coder: RangeDecoder, level: list[Bit], local: list[Bit]) -> int:
        def above(b: int) -> int:
            i = min(b, 15)
            return self.mixer[i].code(coder, [self.plain[i], level[i], local[i]])

        b = self.start - 1
        if above(b):
            b += 1
            while b < 32 and above(b):
                b += 1
        else:
            while b > 0 and not above(b - 1):
                b -= 1
        return b

    def _mantissa(self, coder: RangeDecoder, bucket: int) -> int:
        if bucket < 2:
            return bucket
        led = min(bucket - 1, 3)
        node = 1
        for _ in range(led):
            bit = self.mantissa[min(bucket, 15), node]
            decision = coder.code(_floored(bit.p()))
            bit.update(decision)
            node = 2 * node + decision
        ones = node == 15
        for left in range(bucket - 1 - led, 0, -1):
            if ones:
                bit = self.ones[min(bucket, 15), min(left - 1, 11)]
                decision = coder.code(_floored(bit.p()))
                bit.update(decision)
                ones = bool(decision)
            else:
                decision = coder.code(HALF)
            node = 2 * node + decision
        return node

    def decode(self, coder: RangeDecoder, col: int) -> int:
        """The next integer."""
        here = self.columns[col]
        far = self.columns[col - self.distance] if col >= self.distance else Column(0, here.magnitude)
        energy = _log2(self.row_mean, 5) + _log2(here.mean, 5) - self.base
        level = self._set(self.level, min(max(energy >> 3, 0), 95))
        near = 2 * self.left + self.left2 + 2 * here.magnitude + far.magnitude
        local = self._set(self.local, near if near < 3 else min(_log2(near, 1), 23))
        magnitude = self._mantissa(coder, self._bucket(coder, level, local))
        sign = 0
        if magnitude:
            bit = self.sign[self.left_sign + 3 * here.sign + 9 * far.sign]
            negative = coder.code(_floored(bit.p()))
            bit.update(negative)
            sign = 1 + negative
        capped = min(magnitude, 1 << 16)
        self.left2, self.left, self.left_sign = self.left, capped, sign
        self.row_mean = self._follow(self.row_mean, capped, self.row_seen)
        here.mean = self._follow(here.mean, capped, self.column_seen)
        self.mean = self._follow(self.mean, capped, self.seen)
        self.row_seen = min(self.row_seen + 1, ROW_CAP)
        self.seen = min(self.seen + 1, 256)
        here.magnitude, here.sign = capped, sign
        value = (-magnitude if sign == 2 else magnitude) + self.centre
        return (value + 2**31) % 2**32 - 2**31

    @staticmethod
    def _follow(mean: int, magnitude: int, n: int) -> int:
        return max(mean + _step((magnitude << 8) - mean, n), 1)


def decode(data: bytes, rows: int, cols: int) -> npt.NDArray[np.int32]:
    """Integers [rows, cols] of a context-coded matrix."""
    fields = Fields(data)
    scale, nonzero, second = fields.u8(), fields.u8(), fields.u8()
    centre = fields.svarint() if second & 16 else 0
    coder = RangeDecoder(fields.rest())
    model = Model(cols, scale, nonzero, centre, second & 15)
    out = np.zeros((rows, cols), np.int32)
    for r in range(rows):
        model.start_row()
        for c in range(cols):
            out[r, c] = model.decode(coder, c)
    coder.finish()
    return out
