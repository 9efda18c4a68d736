"""What a user asks for: a bound on the loss, or on the size."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxopt.errors import OnnxoptError
from onnxopt.metrics import Metric, open_metric
from onnxopt.spec.promise import Promise

DEFAULT_ERROR = 0.05
"""Bound on the noise over signal in the outputs, where nothing else is asked for."""
SYNTHETIC_ERROR = 0.02
"""The same on synthetic inputs, which are easier for a model than photographs: at 0.05 on them SqueezeNet 1.1 loses 6
points of top-1 accuracy, at 0.03 two."""
CONFIDENCE = 0.9
"""Default of `Contract.confidence`: by chance, new samples may exceed one contract in ten."""
_BOUNDS = ("max_drop", "target_size", "target_ratio", "error")


@dataclass(frozen=True, slots=True)
class Contract:
    """At most one of the bounds."""

    max_drop: float | None = None
    """The largest drop of the metric; in points where that is a percentage."""
    target_size: int | None = None
    """The most bytes of the file."""
    target_ratio: float | None = None
    """The least ratio of the source's size to the file's."""
    error: float | None = None
    """The most noise over signal in the outputs."""
    metric: str = "top1"
    """Name of a metric, as `--metric` takes it, or ``package.module:function``."""
    confidence: float = CONFIDENCE
    """How sure it shall be that new samples drop by at most `max_drop`: 0.5 takes the expected drop as it is."""

    def check(self, lossless: bool = False, recipe: bool = False) -> None:
        """Raises OnnxoptError where bounds contradict each other, or a bound or the metric is not valid."""
        given = [name for name in _BOUNDS if getattr(self, name) is not None] + ["lossless"] * lossless
        given += ["recipe"] * (recipe and lossless)
        if len(given) > 1:
            raise OnnxoptError(f"{' and '.join(map(_flag, given))} contradict each other; give one of them")
        if self.max_drop is not None and not self.max_drop >= 0:
            raise OnnxoptError(f"--max-drop is {self.max_drop:g}, expected 0 or more, as in --max-drop 0.5")
        if self.error is not None and not 0 < self.error <= 1:
            raise OnnxoptError(f"--error is {self.error}, expected more than 0 and at most 1, as in --error "
                               f"{DEFAULT_ERROR}")  # fmt: skip
        if self.target_ratio is not None and not self.target_ratio > 1:
            raise OnnxoptError(f"--target-ratio is {self.target_ratio}, expected more than 1")
        if self.target_size is not None and self.target_size <= 0:
            raise OnnxoptError(f"--target-size is {self.target_size}, expected bytes, as in 2MB")
        if not 0.5 <= self.confidence < 1:
            raise OnnxoptError(f"--confidence is {self.confidence:g}, expected at least 0.5 and less than 1, as in "
                               f"--confidence {CONFIDENCE}")  # fmt: skip
        open_metric(self.metric)

    def measure(self) -> Metric | None:
        """The metric that the contract bounds; None where it bounds something else."""
        return None if self.max_drop is None else open_metric(self.metric)

    @property
    def promise(self) -> Promise | None:
        """The bound on the metric, and how sure it shall be; None where the contract bounds something else."""
        return None if self.max_drop is None else Promise(self.max_drop, self.confidence)

    def size(self, source: int) -> int | None:
        """The most bytes of a file whose source has `source` bytes; None where the contract does not bound the size."""
        if self.target_ratio is not None:
            return max(1, int(source / self.target_ratio))
        return self.target_size

    @property
    def bounded(self) -> bool:
        """Whether anything is asked for."""
        return any(getattr(self, name) is not None for name in _BOUNDS)

    def with_default(self, synthetic: bool) -> Contract:
        """This contract; where it bounds nothing, with the default bound on noise, for synthetic or for real inputs."""
        if self.bounded:
            return self
        return replace(self, error=SYNTHETIC_ERROR if synthetic else DEFAULT_ERROR)

    def halved(self) -> Contract | None:
        """The same with half the drop, for a search whose file missed it; None where no drop is allowed."""
        return replace(self, max_drop=self.max_drop / 2) if self.max_drop else None

    def __str__(self) -> str:
        if self.max_drop is not None:
            return f"{self.metric} drops by at most {self.max_drop:g}"
        if self.target_size is not None:
            return f"at most {self.target_size} bytes"
        if self.target_ratio is not None:
            return f"at least {self.target_ratio:g}x smaller"
        return "" if self.error is None else f"noise over signal at most {self.error:g}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
