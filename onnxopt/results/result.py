"""What `optimize` found and did: all that reports read, besides events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxopt.results.events import Chain, Event
from onnxopt.results.strategy import StrategyReport
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
class Result:
    """What `optimize` or `apply` did. As JSON it is described in docs/result.md."""

    schema: int = field(default=2, init=False)
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
    strategies: tuple[StrategyReport, ...] = ()
    """What became of each strategy that was asked for and found anything in the model, in the order of pursuit."""
    command: str = ""
    """The command line, quoted for a shell; empty where there was none."""
    table: dict[str, Any] | None = None
    """What the recipe's paper shows, of this network; see `onnxopt.report.classical`. None where the recipe names none,
    or there was no recipe."""
    benchmark: dict[str, Any] | None = None
    """Source and output compared on this machine, as `onnxopt benchmark --json` gives it; None where that was not
    asked for, the output is a copy, or `not_benchmarked` says why."""
    not_benchmarked: str = ""

    def strategy(self, name: str) -> StrategyReport | None:
        """What became of one strategy; None where it was not asked for, or found nothing in the model."""
        return next((one for one in self.strategies if one.name == name), None)
