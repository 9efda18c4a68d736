"""What strategies ask about time: a protocol, so that a test can say how fast a machine is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from onnxopt.data import Array
from onnxopt.measure.benchmark import SpeedRatio, milliseconds, time_by_node, time_ratios
from onnxopt.spec.progress import Advance

RACE_SECONDS = 60.0
"""Most that a race takes; on an idle machine it takes some 30."""


class Clock(Protocol):
    """Measures how long models run."""

    def race(
        self, models: Sequence[Path], against: Path, feeds: Mapping[str, Array], advance: Advance
    ) -> list[SpeedRatio]:
        """The time of each model over that of `against`, with its 95 % interval. Raises OnnxoptError where one does
        not run."""
        ...

    def profile(self, model: bytes, feeds: Mapping[str, Array]) -> dict[str, float]:
        """Milliseconds of every node of a model, by the name that the runtime's optimized graph gives it."""
        ...

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        """Milliseconds of a run of each model: quick and rough, to choose candidates by."""
        ...


class OrtClock:
    """This machine, running ONNX Runtime."""

    def race(
        self, models: Sequence[Path], against: Path, feeds: Mapping[str, Array], advance: Advance
    ) -> list[SpeedRatio]:
        """See `Clock`; in fresh processes that take turns."""
        return time_ratios(models, against, [dict(feeds)], RACE_SECONDS, advance)

    def profile(self, model: bytes, feeds: Mapping[str, Array]) -> dict[str, float]:
        """See `Clock`; medians over runs, from the runtime's profiler."""
        return time_by_node(model, feeds)

    def time_many(self, models: Sequence[bytes], feeds: Mapping[str, Array]) -> list[float]:
        """See `Clock`; in this process, in turns."""
        return milliseconds(models, feeds)
