"""The strategy protocol: a strategy proposes other forms of a model; `pursue` tries them and says what came of it."""

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
    """What the report says of each layer."""
    raced: Mapping[str, Step] | None = None
    """What is timed in its place, where that is not the form itself but one of the same speed here."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Forms of the model that are worth a try: they are raced against each other, and the fastest goes on."""

    variants: tuple[Variant, ...]
    start: float
    """The slope that the search begins with."""
    timed: bool = True
    """Whether there is a race, and the model has to be faster; else the first variant goes on."""
    noise_budget: float = 1.0
    """Share, in power, of the kept file's noise that the search may make; 1: the contract decides."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a proposal."""

    proposal: Proposal
    variant: Variant
    """The one that went on, with what is known of its layers by now."""
    work: Workspace
    reason: str = ""
    """Why it is refused; empty where it is not."""
    time: SpeedRatio | None = None
    """The whole model against the baseline; None where it was not raced."""
    searched: Searched | None = None
    """None where the race was lost, or the strategy is exact."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a strategy returns that has nothing more to propose."""

    reason: str
    layers: tuple[LayerOutcome, ...] = ()
    time: SpeedRatio | None = None
    """Of the last race that was lost."""


Proposals = Generator[Proposal, Outcome, Refused]
"""Each outcome that is sent back was refused: an accepted one ends the generator."""


class Strategy(ABC):
    """Subclasses live in a module of their own in this folder and have no state."""

    name: ClassVar[str]
    title: ClassVar[str]
    """For reports: what the model's layers are then."""
    order: ClassVar[int]
    """Strategies are pursued from the lowest to the highest."""
    phrase: ClassVar[str]
    """As in "the model takes 0.8x the time in INT8"."""
    goals: ClassVar[frozenset[Goal]]
    """Which `--for` asks for it."""
    exact: ClassVar[bool] = False
    """Whether outputs stay what they are: then it is adopted before the search, and need only be faster."""
    inline_only: ClassVar[bool] = True
    """Whether it works on the model as one protobuf, which ends at 2 GB."""
    worth: ClassVar[float] = 1.0
    """Share of the baseline's time that the model may take at most."""
    columns: ClassVar[tuple[Column, ...]]
    """Of the layers' table in reports."""

    def is_wanted(self, request: Request) -> bool:
        """Whether a user asks for it."""
        return request.wanted in self.goals

    def applies(self, base: Baseline) -> bool:
        """Whether the model has anything for it; where not, reports do not name it."""
        return True

    @abstractmethod
    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes forms, told each time why the last one was refused; returns why there are no more."""

    def judge(self, base: Baseline, outcome: Outcome) -> Outcome:
        """An outcome that meets the contract and is no larger than the source, with a reason where it is refused all
        the same, and what is now known of its layers."""
        return outcome

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """What it looked at, and what it did: a sentence or two for reports, the first one without a capital."""
        return ""

    def settles(self, base: Baseline, outcome: Outcome) -> bool:
        """Whether an accepted outcome makes it needless to pursue what comes after it."""
        return False
