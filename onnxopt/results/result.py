"""What `optimize` found and did: all that reports read, besides events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.results.events import Chain, Event
from onnxopt.search.allocation import LayerDecision
from onnxopt.search.evaluator import Comparison
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan


@dataclass(frozen=True, slots=True)
class Check:
    """What was measured on the file that was written, through the loader."""

    data: str
    """Name of the data."""
    found: Comparison


@dataclass(frozen=True, slots=True)
class Stage:
    """Some of a plan's steps on every weight: the first, the first two, and so on."""

    steps: str
    """The names of the passes, as in ``prune > codebook``."""
    size: int
    """Bytes of a file with these alone."""
    found: Comparison | None
    """On the data of the check; None where that was not."""


@dataclass(frozen=True, slots=True)
class Factoring:
    """What became of the wish for chains of layers that save bytes or time."""

    goal: str
    """What they were to save: size, speed, or balanced for both."""
    kept: bool
    """Whether the file has chains for that."""
    reason: str
    """Why it has none; empty where it has."""
    plain: Trial
    """What the search kept without chains."""
    chained: Trial | None
    """What it kept with them, the last time; None where there was none to search with."""
    time: SpeedRatio | None
    """The whole model with chains against without, before either was quantized, as `onnxopt benchmark` compares two;
    None where time did not count, or there was no chain."""
    layers: tuple[LayerDecision, ...]
    """All that might have become chains, in the order of the graph."""

    def given_up(self, reason: str) -> Factoring:
        """The same, where no chain is in the file after all."""
        layers = tuple(replace(one, accepted=False, reason=reason) if one.accepted else one for one in self.layers)
        return replace(self, kept=False, reason=reason, layers=layers)


@dataclass(frozen=True, slots=True)
class Placed:
    """One node that was considered for integers, with the rectifier behind it."""

    path: str
    """Its name."""
    op: str
    weight: str | None
    integers: bool
    """Whether it runs in them."""
    ms_floats: float | None
    """In the whole model, from the runtime's profile; None where time did not count."""
    ms_integers: float | None
    """Likewise; None, too, where it cannot run in integers."""
    noise: float | None
    """Over signal in the model's outputs, when its output alone is rounded."""
    method: str
    """That chose the range of its output: minmax, percentile, entropy or mse, by the noise that it makes."""


@dataclass(frozen=True, slots=True)
class Integers:
    """What became of the wish for nodes that run in integers."""

    goal: str
    """What they were to save; empty where all that can were to."""
    target: str
    """The device whose kernels they are for."""
    type: str
    """Of values between them."""
    kept: bool
    """Whether the file has any."""
    reason: str
    """Why it has none; empty where it has."""
    time: SpeedRatio | None
    """The whole model in integers against floats, as `onnxopt benchmark` compares two; None where time did not count,
    or there was nothing to compare."""
    trial: Trial | None
    """What the search kept with them."""
    layers: tuple[Placed, ...]
    """In the order of the graph."""

    @property
    def share_of_slowest(self) -> float:
        """Of the time in floats, what the eight slowest layers take; 0 where time did not count."""
        times = sorted((one.ms_floats or 0.0 for one in self.layers), reverse=True)
        return sum(times[:8]) / (sum(times) or 1.0)

    def given_up(self, reason: str) -> Integers:
        """The same, where nothing in the file runs in integers after all."""
        layers = tuple(replace(one, integers=False) for one in self.layers)
        return replace(self, kept=False, reason=reason, layers=layers)


@dataclass(frozen=True, slots=True)
class Product:
    """A matrix product that was considered for integers in blocks."""

    path: str
    """Of its weight."""
    step: str
    """What it became, or what would have been fastest."""
    ms_before: float
    """Of the layer alone, in floats, on one sample."""
    ms_after: float
    noise: float | None
    """Over signal in the model's outputs that the weight's integers make; None where it is not known."""
    accepted: bool


@dataclass(frozen=True, slots=True)
class Blocks:
    """What became of the wish for matrix products that run faster on weights of 4 or 8 bits."""

    kept: bool
    """Whether the file has any."""
    reason: str
    """Why it has none; empty where it has."""
    time: SpeedRatio | None
    """The whole model with them against floats, as `onnxopt benchmark` compares two; None where there was nothing to
    compare."""
    trial: Trial | None
    """What the search kept with them."""
    layers: tuple[Product, ...]
    """In the order of the graph."""

    def given_up(self, reason: str) -> Blocks:
        """The same, where none is in the file after all."""
        return replace(self, kept=False, reason=reason, layers=tuple(replace(o, accepted=False) for o in self.layers))


@dataclass(frozen=True, slots=True)
class Rectifiers:
    """What became of PRelu nodes that may be depthwise convolutions instead."""

    kept: bool
    """Whether they are."""
    nodes: int
    reason: str
    """Why they are not; empty where they are."""
    time: SpeedRatio | None
    """The whole model with convolutions against without, as `onnxopt benchmark` compares two; None where it does not
    run with them."""


@dataclass(frozen=True, slots=True)
class Result:
    """What `optimize` or `apply` did. As JSON it is described in docs/result.md."""

    schema: int = field(default=1, init=False)
    """Version of the JSON; grows when a field changes its meaning or goes."""
    kind: str = field(default="optimize", init=False)
    source: Path
    output: Path
    bytes_before: int
    """Of the source file with its external data."""
    bytes_fp16: int
    """What the source would be with every float32 weight in float16."""
    bytes_after: int
    events: tuple[Event, ...]
    chains: tuple[Chain, ...]
    """The layers that became chains of layers."""
    cleaned: dict[str, int]
    """Nodes that each clean-up removed or changed."""
    contract: str
    """What was asked for; empty where nothing was (a plan applied, lossless)."""
    bounds: Contract | None
    """The same as numbers; None where nothing was asked for."""
    recipe: str
    """Name of the recipe that decided; empty where the engine did."""
    met: bool
    calibrated: str
    """Name of the data that the weights were calibrated on; empty where on none."""
    not_calibrated: str
    """Why there was no calibration; empty where there was, or none was asked for."""
    trials: tuple[Trial, ...]
    """The search, in order."""
    kept: Trial | None
    """The one whose plan was written; None where there was no search, or it ended in a lossless file."""
    check: Check | None
    """None where `not_checked` says why."""
    not_checked: str
    stages: tuple[Stage, ...]
    """Of a recipe whose paper has a table, up to the file that was written."""
    unchanged: bool
    """Compressed it would be no smaller: the output is a copy of the source."""
    seconds: float
    peak_memory: int | None
    """Bytes of RAM that this process has held at most so far; None where the system does not say."""
    plan: Plan
    versions: dict[str, str]
    """Of the packages that decided: onnxopt, onnxruntime, numpy."""
    factoring: Factoring | None = None
    """None where no chains were wished for, but by rules."""
    integers: Integers | None = None
    """None where nothing was to run in integers."""
    blocks: Blocks | None = None
    """None where time did not count."""
    rectifiers: Rectifiers | None = None
    """None where time did not count, or the model has none."""
    command: str = ""
    """The command line, quoted for a shell; empty where there was none."""
    table: dict[str, Any] | None = None
    """What the recipe's paper shows, of this network; see `onnxopt.report.classical`. None where the recipe names none,
    or there was no recipe."""
    benchmark: dict[str, Any] | None = None
    """Source and output compared on this machine, as `onnxopt benchmark --json` gives it; None where that was not
    asked for, the output is a copy, or `not_benchmarked` says why."""
    not_benchmarked: str = ""
