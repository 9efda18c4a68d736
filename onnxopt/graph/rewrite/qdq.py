"""How a value is rounded while the model runs: the parameters of QuantizeLinear and DequantizeLinear (QDQ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.spec.plan import Step

STANDARD_TYPES = ("int8", "uint8")
"""Types of ONNX's own operators in the opset that QDQ nodes need; 16 bits take ONNX Runtime's (com.microsoft)."""
_TYPES = (*STANDARD_TYPES, "int16", "uint16")


@dataclass(frozen=True, slots=True)
class QuantParams:
    """A value x becomes ``scale (q - zero)`` with ``q = round(x / scale) + zero``, halves to even, saturating.

    Raises ValueError where the parameters are impossible.
    """

    NAME: ClassVar[str] = "qdq"
    """Name of its step."""
    scale: float
    """A normal float32 number."""
    zero: int
    type: str
    """One of int8, uint8, int16, uint16."""
    clip: tuple[int, int] | None = None
    """Lowest and highest q, within the type's bounds; None: these bounds."""
    dtype: str = "float32"
    """Element type of the value; other types than float32 are rounded as float32."""

    def __post_init__(self) -> None:
        if self.type not in _TYPES:
            raise ValueError(f"type is {self.type!r}, expected {', '.join(_TYPES)}")
        bounds = np.iinfo(self.type)
        if not bounds.min <= self.zero <= bounds.max:
            raise ValueError(f"zero is {self.zero}, expected {bounds.min} to {bounds.max}")
        if not np.finfo(np.float32).tiny <= self.scale < float("inf"):
            raise ValueError(f"scale is {self.scale}, expected a float32 number above 0")

    @classmethod
    def over(cls, low: float, high: float, kind: str) -> QuantParams:
        """The grid of a type over a range around 0, with 0 on the grid.

        Where the range ends at 0, the scale is rounded down in float32, so that no level lies beyond the range:
        saturation then does all that a rectifier does, and the runtime drops the rectifier.
        """
        bounds = np.iinfo(kind)
        steps = bounds.max - bounds.min
        scale = np.float32(max((high - low) / steps, 1e-30))
        if low >= 0 or high <= 0:
            end = max(high, -low)
            while np.float32(steps) * scale > np.float32(end) and scale > 1e-30:
                scale = np.nextafter(scale, np.float32(0))
        zero = bounds.min if low >= 0 else bounds.max if high <= 0 else round(bounds.min - low / float(scale))
        return cls(float(scale), min(max(zero, bounds.min), bounds.max), kind)

    @classmethod
    def within(cls, scale: float, zero: int, low: int, high: int, dtype: str = "float32") -> QuantParams:
        """The grid of the integers `low` to `high`, in the smallest type that holds them and `zero`.

        Raises ValueError where 16 bits do not.
        """
        for kind in _TYPES:
            bounds = np.iinfo(kind)
            if bounds.min <= min(low, zero) and max(high, zero) <= bounds.max:
                return cls(scale, zero, kind, (low, high), dtype)
        raise ValueError(f"levels {low} to {high} with zero {zero} do not fit 16 bits")

    @property
    def levels(self) -> tuple[int, int]:
        """Lowest and highest ``q - zero``."""
        bounds = np.iinfo(self.type)
        low, high = self.clip or (int(bounds.min), int(bounds.max))
        return low - self.zero, high - self.zero

    @property
    def reach(self) -> tuple[float, float]:
        """The lowest and the highest value on the grid."""
        low, high = self.levels
        return low * self.scale, high * self.scale

    def error(self, x: Array) -> Array:
        """What rounding adds to the floats x, in x's shape."""
        made = x * np.float32(1 / self.scale)
        np.rint(made, out=made)
        np.clip(made, *self.levels, out=made)
        made *= np.float32(self.scale)
        made -= x
        return np.asarray(made)

    def step(self) -> Step:
        """The step that plans write, for parameters without `clip`."""
        return Step(self.NAME, (("scale", self.scale), ("zero", self.zero), ("type", self.type)))

    @classmethod
    def from_step(cls, step: Step) -> QuantParams:
        """The inverse of `step`. Raises OnnxoptError where the step is none."""
        try:
            given = dict(step.args)
            scale, zero, kind = float(given.pop("scale")), int(given.pop("zero")), str(given.pop("type"))
            if given:
                raise ValueError(f"unknown {', '.join(given)}")
            return cls(scale, zero, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise OnnxoptError(f"step {step}: {error}; expected qdq{{scale=...,zero=...,type=...}}") from error
