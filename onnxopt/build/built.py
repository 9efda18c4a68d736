"""An executed plan."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx

from onnxopt.build.packed import Packed
from onnxopt.encoding import Encoding
from onnxopt.results.events import Event
from onnxopt.spec.plan import Plan

LARGEST_INSIDE = 2**30
"""Bytes of a container in the model's own file. Of a larger one, ONNX Runtime would hold two copies while it reads that
file; one beside it is mapped into memory."""


@dataclass(frozen=True, slots=True)
class Built:
    """An executed plan: everything that a file consists of."""

    plan: Plan
    inner: onnx.ModelProto
    packed: Packed
    """The container."""
    encodings: dict[str, Encoding]
    events: list[Event]
    exported: onnx.ModelProto
    """The inner model before its nodes lost their names."""
    grids: dict[str, Encoding]
    """By path of a weight that stays INT8 at run time, its integers and scales."""
    rounded: frozenset[str]
    """Layer outputs that the model rounds at run time."""

    def data_name(self, path: Path) -> str:
        """Name of the separate data file beside the model; empty if one file holds all."""
        return f"{path.name}.data" if self.packed.size > LARGEST_INSIDE else ""
