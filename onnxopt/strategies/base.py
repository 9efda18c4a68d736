"""The strategy protocol: a strategy proposes alternative forms of a model, and `pursue` tries them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from onnxopt.build.workspace import Workspace
from onnxopt.measure.benchmark import SpeedRatio
from onnxopt.measure.clock import Clock
from onnxopt.request import Request
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.search.contract_search import Searched
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.strategies.baseline import Baseline


@dataclass(frozen=True, slots=True)
class Variant:
    """One form of the model."""

    steps: Mapping[str, Step]
    """Structural steps (`Workspace.with_steps`)."""
    layers: tuple[LayerOutcome, ...] = ()
    """One row per layer for the report."""
    raced: Mapping[str, Step] | None = None
    """Steps of a stand-in for timing: another form with the same speed on this machine. None: the variant itself is
    timed."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Forms of the model that are worth trying. They are raced against each other, and the fastest one goes on."""

    variants: tuple[Variant, ...]
    start: float
    """The slope at which the search starts."""
    timed: bool = True
    """Whether the variants are raced and the model must get faster. If not, the first variant goes on."""
    noise_budget: float = 1.0
    """Share of the kept file's noise power that the search may use. At 1, the contract alone decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of trying a proposal."""

    proposal: Proposal
    variant: Variant
    """The variant that went on, with its layer rows up to date."""
    work: Workspace
    reason: str = ""
    """Why the proposal is refused; empty if it is accepted."""
    time: SpeedRatio | None = None
    """Time of the whole model relative to the baseline; None if it was not raced."""
    searched: Searched | None = None
    """None if the race was lost or the strategy is exact."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a strategy returns when it has nothing more to propose."""

    reason: str
    layers: tuple[LayerOutcome, ...] = ()
    time: SpeedRatio | None = None
    """Result of the last lost race."""


Proposals = Generator[Proposal, Outcome, Refused]
"""Every outcome sent back to the generator was refused. An accepted outcome closes the generator."""


class Strategy(ABC):
    """Each subclass lives in its own module in this folder and has no state."""

    name: ClassVar[str]
    title: ClassVar[str]
    """Heading in reports."""
    order: ClassVar[int]
    """Strategies are tried in ascending order."""
    phrase: ClassVar[str]
    """Completes a sentence such as "the model takes 0.8x the time in INT8"."""
    goals: ClassVar[frozenset[Goal]]
    """The `--for` goals that enable the strategy."""
    exact: ClassVar[bool] = False
    """Whether the outputs stay the same. An exact strategy is adopted before the search and only has to be faster."""
    inline_only: ClassVar[bool] = True
    """Whether it works on the model as one protobuf, which ends at 2 GB."""
    adds: ClassVar[bool] = False
    """Whether it is tried upon the form of another strategy, too, on the layers that this one has left as they are."""
    worth: ClassVar[float] = 1.0
    """Largest accepted time, as a share of the baseline's time."""
    columns: ClassVar[tuple[Column, ...]]
    """Columns of the layer table in reports."""

    def is_wanted(self, request: Request) -> bool:
        """Whether the user asks for this strategy."""
        return request.wanted in self.goals

    def applies(self, base: Baseline) -> bool:
        """Whether the model has anything that the strategy can change. If not, reports do not mention it."""
        return True

    @abstractmethod
    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Yields proposals and receives the outcome of each refused one. Returns why it has no more."""

    def judge(self, base: Baseline, outcome: Outcome) -> Outcome:
        """Inspects an outcome that meets the contract, updates its layer rows, and sets a reason to refuse it."""
        return outcome

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """One or two sentences for reports: what was examined and what was done. The first one starts in lower case."""
        return ""

    def settles(self, base: Baseline, outcome: Outcome) -> bool:
        """Whether an accepted outcome makes the remaining strategies unnecessary."""
        return False
