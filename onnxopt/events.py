"""What happened to each weight: all that reports read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Event:
    """One weight, or all the rest of the file under one name."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses it."""
    step: str
    """The decision, in the plan's words."""
    bytes_before: int
    bytes_after: int
    elements: int
    error: float
    """Root mean square of the change over root mean square of the weight."""
    codec: str = ""
    predicted: float | None = None
    """Root of noise over signal in the node's outputs, as the statistics promised before quantization."""
    measured: float | None = None
    """The same, on inputs that were held back."""
    zeros: float = 0.0
    """Share of the elements."""
    reason: str = ""
    """Why it was left as it was; empty where it was not."""

    @property
    def bits(self) -> float:
        """Bits in the file for each element."""
        return 8 * self.bytes_after / self.elements if self.elements else 0.0
