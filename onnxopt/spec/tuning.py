"""How long the weights are tuned."""

from __future__ import annotations

import re
from dataclasses import dataclass

from onnxopt.errors import OnnxoptError

_TEXT = re.compile(r"(?P<number>[0-9]+(?:\.[0-9]+)?)\s*(?P<unit>s|m|h|epochs?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True, slots=True)
class Tuning:
    """A limit on the time or on the passes over the training samples; one of them is given."""

    seconds: float | None = None
    epochs: int | None = None

    @classmethod
    def parse(cls, text: str) -> Tuning:
        """Reads ``90s``, ``10m``, ``1.5h`` or ``30epochs``. Raises OnnxoptError for anything else."""
        match = _TEXT.fullmatch(text.strip().lower())
        number = float(match["number"]) if match else 0.0
        if match is None or number <= 0 or (match["unit"] not in _SECONDS and not number.is_integer()):
            raise OnnxoptError(f"--tune is {text!r}, expected a time or a number of passes over the data, as in "
                               "--tune 10m or --tune 30epochs")  # fmt: skip
        if match["unit"] in _SECONDS:
            return cls(seconds=number * _SECONDS[match["unit"]])
        return cls(epochs=int(number))

    def __str__(self) -> str:
        return f"{self.seconds:g}s" if self.seconds is not None else f"{self.epochs}epochs"
