"""The result of `optimize`: what reports read besides events."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from onnxopt.encoding import Encoding
from onnxopt.files import Folder, write_atomically
from onnxopt.results.events import Chain, Event
from onnxopt.results.strategy import StrategyReport
from onnxopt.results.tuning import TunedPass
from onnxopt.search.evaluator import Comparison
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Plan
from onnxopt.spec.promise import Promise

STATUSES = ("met", "missed", "unchanged", "not_measured")
"""What became of the contract; docs/result.md describes each."""


@dataclass(frozen=True, slots=True)
class Check:
    """The measurements on the written file, as users load it."""

    data: str
    """Name of the data."""
    found: Comparison


@dataclass(frozen=True, slots=True)
class Promised:
    """What the samples of the check say of the metric on new samples."""

    expected: float
    """Drop that is expected."""
    low: float
    """Drop that is exceeded with probability `confidence`."""
    high: float
    """Drop that is not exceeded with probability `confidence`."""
    confidence: float
    method: str
    """How the expected drop was found: "margins", from the samples' leads and the noise; "counted", as it was measured,
    with the noise of new samples where it is known."""
    outlook: str
    """What the samples of the search could tell, as it was said before it; empty if that was not known."""

    @classmethod
    def of(cls, found: Comparison, promise: Promise, outlook: str) -> Promised | None:
        """What a comparison says; None if it has no metric."""
        limits = promise.interval(found)
        if limits is None:
            return None
        low, high = limits
        method = "counted" if found.margins is None else "margins"
        return cls((low + high) / 2, low, high, promise.confidence, method, outlook)


@dataclass(frozen=True, slots=True)
class Stage:
    """The first one, two or more steps of a plan, applied to every weight."""

    steps: str
    """The names of the passes, as in ``prune > codebook``."""
    size: int
    """Bytes of a file with only these steps."""
    found: Comparison | None
    """Comparison on the data of the check; None if there was no check."""


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """The result of `optimize` or `apply`. docs/result.md describes it as JSON. Notebooks show its HTML page."""

    schema: int = field(default=2, init=False)
    """Version of the JSON; increases when a field changes its meaning or is removed."""
    kind: str = field(default="optimize", init=False)
    status: str = field(default="", init=False)
    """One of `STATUSES`, from the other fields."""
    source: Path
    output: Path
    bytes_before: int
    """Size of the source file, external data included."""
    bytes_fp32: int
    """Size of the source with every float weight stored as float32."""
    bytes_fp16: int
    """Size of the source with every float weight stored as float16."""
    bytes_after: int
    events: tuple[Event, ...]
    chains: tuple[Chain, ...]
    """The layers that were factorised."""
    cleaned: dict[str, int]
    """Nodes that each clean-up removed or changed."""
    left_out: dict[str, str]
    """By name of a clean-up, or ``quantization`` or ``compression``, why it was given up: the model would not have
    computed the same."""
    contract: str
    """The contract in words; empty without one (an applied plan, lossless)."""
    bounds: Contract | None
    """The contract as numbers; None without one."""
    recipe: str
    """Name of the recipe that decided; empty if the engine decided."""
    met: bool
    calibrated: str
    """Name of the calibration data; empty if there was none."""
    rests_on: str
    """What the measurements rest on where no data was given, and what `--data` would change; empty with data."""
    not_calibrated: str
    """Why there was no calibration; empty if there was, or if none was requested."""
    trials: tuple[Trial, ...]
    """All trials of the search, in order."""
    kept: Trial | None
    """The trial whose plan was written; None if there was no search or it ended in a lossless file."""
    check: Check | None
    """None if there was no check; `not_checked` says why."""
    not_checked: str
    promised: Promised | None
    """What is promised of the metric; None if the contract bounds none, or nothing was measured."""
    stages: tuple[Stage, ...]
    """Stages of a recipe whose paper has a table, up to the written file."""
    unchanged: bool
    """Whether the output is a copy of the source, because compression would not make it smaller."""
    seconds: float
    peak_memory: int | None
    """Peak memory of this process so far, in bytes; None if the system does not report it."""
    plan: Plan
    versions: dict[str, str]
    """Versions of onnxopt, onnxruntime and numpy."""
    request: str = ""
    """Digests of the request and its inputs, as `build.stamp.Stamp` writes them; empty if there are none."""
    strategies: tuple[StrategyReport, ...] = ()
    """Reports of the strategies that were requested and applied to the model, in the order in which they were tried."""
    tuning: tuple[TunedPass, ...] = ()
    """How weights were trained, in order; empty where they were not."""
    command: str = ""
    """The command line, quoted for a shell; empty if there was none."""
    table: dict[str, Any] | None = None
    """The table of the recipe's paper for this network; see `onnxopt.report.classical`. None if the recipe names no
    table, or without a recipe."""
    benchmark: dict[str, Any] | None = None
    """Benchmark of source and output on this machine, as from `onnxopt benchmark --json`; None if it was not requested,
    the output is a copy, or `not_benchmarked` says why."""
    not_benchmarked: str = ""
    values: Mapping[str, Encoding] = field(default_factory=dict, compare=False, metadata={"shown": False})
    """Values of tuned weights by path, which the plan lacks."""
    folder: Folder | None = field(default=None, compare=False, metadata={"shown": False})
    """Holds the files that have no place of their own, as long as the result lives; None if there are none."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", self._status())

    def _status(self) -> str:
        if not self.met:
            return "missed"
        if self.unchanged:
            return "unchanged"
        found = self.check.found if self.check else None
        if found is None or not found.measured or (found.error is None and self.not_calibrated):
            return "not_measured"
        return "met"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Copies the compressed model to `path`, whole or not at all. Raises OnnxoptError if that is impossible."""
        path = Path(path)
        beside = [file for file in self.output.parent.glob(f"{self.output.name}.*") if file.is_file()]
        with write_atomically(path) as temporary:
            shutil.copyfile(self.output, temporary)
            for file in beside if self.output.stat().st_size < self.bytes_after else ():
                shutil.copyfile(file, temporary.with_name(file.name))
        return path

    def report(self, path: str | os.PathLike[str] | None = None) -> str:
        """The HTML page of this result, which `--report` writes; also written to `path` if one is given."""
        page = str(import_module("onnxopt.report.html").of(self))  # a room above this one, as a user's call starts it
        if path is not None:
            with write_atomically(path) as temporary:
                temporary.write_text(page, encoding="utf-8")
        return page

    def __repr__(self) -> str:
        ratio = self.bytes_before / self.bytes_after
        return f"Result({str(self.output)!r}, {self.status}, {ratio:.2f}x smaller, {self.bytes_after} bytes)"

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that a notebook's styles and the page's do not mix."""
        page = html.escape(self.report())
        return f'<iframe srcdoc="{page}" style="width: 100%; height: 40em; border: 0" title="onnxopt"></iframe>'

    def strategy(self, name: str) -> StrategyReport | None:
        """The report of one strategy; None if it was not requested or did not apply to the model."""
        return next((one for one in self.strategies if one.name == name), None)
