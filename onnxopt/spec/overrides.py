"""What a user decides for single weights, in a TOML file.

    [[rule]]
    match = "layer4.*"        # weights whose path matches,
    op = ["Conv", "Gemm"]     # that are used by nodes of these types,
    axes = 2                  # with at least so many axes (biases have one),
    nth = 1                   # and of those the first; a rule has one or more of these conditions
    max_bits = 4

Later rules win over earlier ones, key by key.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Protocol

from onnxopt.errors import OnnxoptError, meant
from onnxopt.files import read_text
from onnxopt.spec.documents import parse_toml
from onnxopt.spec.plan import Step

_CONDITIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "match": ('a pattern of paths, as in "layer4.*"', lambda v: isinstance(v, str)),
    "op": (
        'a node type, as in "Conv", or a list of them',
        lambda v: isinstance(v, str) or (isinstance(v, list) and all(isinstance(op, str) for op in v)),
    ),
    "axes": ("a whole number above 0", lambda v: type(v) is int and v > 0),
    "nth": ("a whole number above 0", lambda v: type(v) is int and v > 0),
}
_DECISIONS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "skip": ("true or false", lambda v: isinstance(v, bool)),
    "lossless": ("true or false", lambda v: isinstance(v, bool)),
    "max_bits": ("a whole number from 2 to 16", lambda v: type(v) is int and 2 <= v <= 16),
    "error": ("a number above 0 and up to 1", lambda v: type(v) in (int, float) and 0 < v <= 1),
    "step": ('a step as plans have them, as in "svd{rank=16}"', lambda v: isinstance(v, str)),
}


class Weight(Protocol):
    """What rules match."""

    @property
    def path(self) -> str:
        """Its name."""

    @property
    def op(self) -> str:
        """Type of the node that uses it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its dimensions."""


@dataclass(frozen=True, slots=True)
class Override:
    """What is decided for one weight; None leaves it to the search."""

    skip: bool = False
    """Stored bit for bit; other decisions are then ignored."""
    max_bits: int | None = None
    """Quantized to integers q with ``|q| < 2^(max_bits - 1)``."""
    error: float | None = None
    """Relative error (noise over signal) of the quantized weight."""
    step: Step | None = None
    """The step, instead of the search's. For the parts that a structural step makes, other rules decide."""

    @property
    def says_nothing(self) -> bool:
        """Whether all is left to the search."""
        return self == Override()


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the file."""

    number: int
    """Position in the file, from 1."""
    conditions: dict[str, Any]
    """`match` is a glob on the path: ``*`` stands for anything, dots and slashes too."""
    decided: dict[str, Any]
    """Fields of `Override`."""

    def __str__(self) -> str:
        wanted = [f"{key} = {json.dumps(value)}" for key, value in self.conditions.items()]
        return f"rule {self.number} ({', '.join(wanted)})"

    def holds(self, weights: Sequence[Weight]) -> list[Weight]:
        """Those that the rule matches."""
        ops = self.conditions.get("op", ())
        found = [
            weight
            for weight in weights
            if fnmatchcase(weight.path, self.conditions.get("match", "*"))
            and (not ops or weight.op in ([ops] if isinstance(ops, str) else ops))
            and len(weight.shape) >= self.conditions.get("axes", 0)
        ]
        nth = self.conditions.get("nth")
        return found if nth is None else found[nth - 1 : nth]


@dataclass(frozen=True, slots=True)
class Overrides:
    """All rules of a file."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Overrides:
        """Raises OnnxoptError where the file cannot be read or a rule is wrong."""
        return cls.parse(read_text(path), str(path))

    @classmethod
    def parse(cls, text: str, source: str = "overrides") -> Overrides:
        """Reads the text of a file; `source` is what errors call it. Raises OnnxoptError where a rule is wrong."""
        try:
            document = parse_toml(text)
        except ValueError as error:
            raise OnnxoptError(f"{source}: not TOML: {error}") from error
        rules = document.pop("rule", [])
        if document or not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            found = ", ".join(document) or "a rule that is no table"
            raise OnnxoptError(f"{source}: expected rules, each beginning with a line [[rule]], found {found}")
        return cls.of(rules, source)

    @classmethod
    def of(cls, rules: Sequence[dict[str, Any]], source: str = "overrides", first: int = 1) -> Overrides:
        """From tables as in the file, of which the first has the number `first`. Raises OnnxoptError where a rule is
        wrong."""
        return cls(tuple(_rule(rule, number, source) for number, rule in enumerate(rules, first)))

    def decided(self, weights: Sequence[Weight]) -> dict[str, Override]:
        """What the rules decide for all weights of a model (in the graph's order), by path."""
        found = {weight.path: Override() for weight in weights}
        for rule in self.rules:
            for weight in rule.holds(weights):
                found[weight.path] = replace(found[weight.path], **rule.decided)
        return found

    def without(self, passes: Collection[str]) -> Overrides:
        """The same without the steps of these passes, and without `skip` in their rules."""
        rules = []
        for rule in self.rules:
            step = rule.decided.get("step")
            gone = () if step is None or step.name not in passes else ("step", "skip")
            rules.append(replace(rule, decided={key: rule.decided[key] for key in rule.decided if key not in gone}))
        return Overrides(tuple(rules))

    def unmatched(self, weights: Sequence[Weight]) -> list[Rule]:
        """The rules that match none of these weights."""
        return [rule for rule in self.rules if not rule.holds(weights)]


def _rule(table: dict[str, Any], number: int, source: str) -> Rule:
    where = f"{source}: rule {number}"
    known = {**_CONDITIONS, **_DECISIONS}
    unknown = [key for key in table if key not in known]
    if unknown:
        raise OnnxoptError(f"{where}: there is no key {unknown[0]}; a rule has {', '.join(known)}"
                           f"{meant(unknown[0], known)}")  # fmt: skip
    for key, (expected, is_valid) in known.items():
        if key in table and not is_valid(table[key]):
            raise OnnxoptError(f"{where}: {key} is {table[key]!r}, expected {expected}")
    conditions = {key: value for key, value in table.items() if key in _CONDITIONS}
    if not conditions:
        raise OnnxoptError(f'{where}: says not which weights it is for; add match = "pattern of paths" or op = "Conv"')
    decided = {"skip" if key == "lossless" else key: value for key, value in table.items() if key in _DECISIONS}
    if not decided:
        raise OnnxoptError(f"{where}: decides nothing; add skip = true, max_bits = 4, error = 0.02 or step = "
                           '"svd{rank=16}"')  # fmt: skip
    if decided.get("skip") and len(decided) > 1:
        raise OnnxoptError(f"{where}: contradicts itself; a weight is skipped, or it has max_bits or an error")
    if "step" in decided:
        try:
            decided["step"] = Step.parse(decided["step"])
        except OnnxoptError as error:
            raise OnnxoptError(f"{where}: {error}") from error
    return Rule(number, conditions, decided)
