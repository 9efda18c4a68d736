"""How long the weights are tuned."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxopt.errors import OnnxoptError

_TEXT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>s|m|h|epochs?)")
_AUTO = "auto"
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Tuning:
    """A limit on the time or on the passes over the training samples. Without either, training goes on until it stops
    paying."""

    seconds: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """Reads ``90s``, ``10m``, ``1.5h``, ``30epochs`` or ``auto``. Raises OnnxoptError for anything else."""
        if text.strip().lower() == _AUTO:
            return cls()
        match = _TEXT.fullmatch(text.strip().lower())
        number = float(match["number"]) if match else 0.0
        if match is None or number <= 0 or (match["unit"] not in _SECONDS and not number.is_integer()):
            raise OnnxoptError(f"--tune is {text!r}, expected a time or a number of passes over the data, as in "
                               f"--tune 10m or --tune 30epochs, or --tune {_AUTO}")  # fmt: skip
        if match["unit"] in _SECONDS:
            return cls(seconds=number * _SECONDS[match["unit"]])
        return cls(epochs=int(number))

    def __str__(self) -> str:
        if self.is_open:
            return _AUTO
        return f"{self.seconds:g}s" if self.seconds is not None else f"{self.epochs}epochs"

    @property
    def is_open(self) -> bool:
        """Whether training goes on until it stops paying."""
        return self.seconds is None and self.epochs is None
