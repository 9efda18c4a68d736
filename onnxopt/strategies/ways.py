"""What may be written beside what the search kept: layers as chains, in integers, or weights alone in integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from onnxopt.errors import OnnxoptError
from onnxopt.results.result import Blocks, Factoring, Integers
from onnxopt.search.allocation import Goal
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.slope import Trial
from onnxopt.spec.progress import Progress
from onnxopt.spec.target import Target
from onnxopt.strategies import int8 as integers
from onnxopt.strategies import low_rank as factoring
from onnxopt.strategies import weight_only as blocks

Way = factoring.Found | integers.Found | blocks.Found
ANOTHER = "another way saves more time"
"""Why what pays is not in the file after all."""
_FEW = 0.9
"""Of a model's time, what its eight slowest layers take where it is theirs."""


@dataclass(frozen=True, slots=True)
class Wish:
    """For other nodes than the model has."""

    goal: Goal | None
    activations: int | None
    target: Target


def wish_of(goal: str | None, activations: int | None, target: str | None, lossless: bool, recipe: bool) -> Wish | None:
    """Raises OnnxoptError where there is no such thing, or something else decides already."""
    if goal is not None and goal not in list(Goal):
        raise OnnxoptError(f"--for is {goal!r}, expected {', '.join(Goal)}")
    if activations not in (None, 8, 16):
        raise OnnxoptError(f"--activations is {activations}, expected 8 or 16; a rule's outputs{{bits=...}} rounds to "
                           "other widths as the model runs")  # fmt: skip
    named = {"--lossless": lossless, "--recipe": recipe, "--activations": activations is not None,
             "--for": goal is not None}  # fmt: skip
    given = [name for name, is_given in named.items() if is_given]
    if len(given) > 1 and given != ["--lossless", "--recipe"]:
        raise OnnxoptError(f"{given[0]} and {given[1]} contradict each other; give one of them")
    if target is not None and goal not in (Goal.SPEED, Goal.BALANCED) and activations is None:
        raise OnnxoptError("--target says which integers layers run in; give --for speed, --for balanced or "
                           "--activations, too")  # fmt: skip
    if goal is None and activations is None:
        return None
    return Wish(None if goal is None else Goal(goal), activations, Target.of(target))


@contextmanager
def ways_to(tuner: ContractSearch, best: Trial, wish: Wish | None, progress: Progress) -> Iterator[list[Way]]:
    """What may be written in the place of what the search kept, the fastest first; there until the context ends."""
    with ExitStack() as open_ones:
        ways: list[Way] = []
        if wish is not None and (wish.activations or (wish.goal and wish.goal.timed)):
            bits = wish.activations or 8
            ways.append(open_ones.enter_context(
                integers.placed(tuner, best, wish.goal, wish.target, bits, progress)
            ))  # fmt: skip
        if wish is not None and wish.goal and not any(_settles(way, wish.goal) for way in ways):
            ways.append(open_ones.enter_context(factoring.factored(tuner, best, wish.goal, progress)))
            if wish.goal is Goal.SPEED:
                ways.append(open_ones.enter_context(blocks.blocked(tuner, best, progress)))
        yield sorted(ways, key=_time)


def _settles(way: Way, goal: Goal) -> bool:
    """Whether no other way need be tried: for speed, where integers save time, and no few layers take all of it.

    There a chain, or weights alone in integers, may save more; of many layers, each would have to be timed often.
    """
    found = way.integers if isinstance(way, integers.Found) else None
    return found is not None and found.kept and goal is Goal.SPEED and found.share_of_slowest < _FEW


def _time(way: Way) -> float:
    """Of the model as this way has it, over the model's."""
    _, found = _found(way)
    return found.time.ratio if found.kept and found.time else 1.0


def _found(way: Way) -> tuple[str, Factoring | Integers | Blocks]:
    """What a way came to, and the field of a result that holds it."""
    if isinstance(way, factoring.Found):
        return "factoring", way.factoring
    return ("integers", way.integers) if isinstance(way, integers.Found) else ("blocks", way.blocks)


def said(ways: Sequence[Way], given_up: str = "") -> dict[str, Any]:
    """Fields of a result; with a reason, of what is not in the file."""
    fields: dict[str, Any] = {}
    for way in ways:
        name, found = _found(way)
        fields[name] = found.given_up(given_up) if given_up and found.kept else found
    return fields
