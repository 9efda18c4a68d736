"""Fields of the container and of the codecs: fixed-width and variable-length integers (FORMAT.md)."""


class Fields:
    """A cursor over bytes; reading past the end raises IndexError."""

    def __init__(self, data: bytes) -> None:
        """Start at the first byte of `data`."""
        self._data = data
        self._at = 0

    def u8(self) -> int:
        """Next byte."""
        self._at += 1
        return self._data[self._at - 1]

    def bytes(self, n: int) -> bytes:
        """Next n bytes."""
        if self._at + n > len(self._data):
            raise IndexError(f"{n} bytes expected, {len(self._data) - self._at} left")
        self._at += n
        return self._data[self._at - n : self._at]

    def rest(self) -> bytes:
        """All that is left."""
        return self.bytes(len(self._data) - self._at)

    def varint(self) -> int:
        """LEB128."""
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def svarint(self) -> int:
        """Zigzag over LEB128."""
        z = self.varint()
        return -(z + 1) // 2 if z & 1 else z // 2
