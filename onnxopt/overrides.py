"""What a user decides for single weights, in a TOML file. Knows steps, and nothing else of ours.

    [[rule]]
    match = "layer4.*"   # weights whose path is like this
    op = "Conv"          # and that a node of this type uses; a rule has one of the two or both
    max_bits = 4

Later rules win over earlier ones, key by key.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from onnxopt.errors import OnnxoptError
from onnxopt.plan import Step

_KEYS = ("match", "op", "skip", "lossless", "max_bits", "error", "step")


@dataclass(frozen=True, slots=True)
class Override:
    """What is decided for one weight; None leaves it to the search."""

    skip: bool = False
    """Stored bit for bit; whatever else is decided does not count then."""
    max_bits: int | None = None
    """Quantized to integers q with ``|q| < 2^(max_bits - 1)``."""
    error: float | None = None
    """Relative error (noise over signal) of the quantized weight."""
    step: Step | None = None
    """What is done to it instead; a structural step makes a chain of the layer, whose parts the search quantizes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of the file."""

    number: int
    """From 1, in the file's order."""
    match: str | None
    """Glob on the path: ``*`` stands for anything, dots and slashes too."""
    op: str | None
    decided: dict[str, Any]
    """Fields of `Override`."""

    def __str__(self) -> str:
        wanted = [f'{key} = "{value}"' for key, value in (("match", self.match), ("op", self.op)) if value is not None]
        return f"rule {self.number} ({', '.join(wanted)})"

    def holds(self, path: str, op: str) -> bool:
        """Whether the rule is for this weight of a node of type `op`."""
        return (self.match is None or fnmatchcase(path, self.match)) and self.op in (None, op)


@dataclass(frozen=True, slots=True)
class Overrides:
    """All rules of a file."""

    rules: tuple[Rule, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Overrides:
        """Raises OnnxoptError where the file cannot be read or a rule is wrong."""
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OnnxoptError(f"{path}: cannot be read: {error}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, source: str = "overrides") -> Overrides:
        """Reads the text of a file; `source` is what errors call it. Raises OnnxoptError where a rule is wrong."""
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise OnnxoptError(f"{source}: not TOML: {error}") from error
        rules = document.pop("rule", [])
        if document or not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
            found = ", ".join(document) or "a rule that is no table"
            raise OnnxoptError(f"{source}: expected rules, each beginning with a line [[rule]], found {found}")
        return cls(tuple(_rule(rule, number, source) for number, rule in enumerate(rules, 1)))

    def of(self, path: str, op: str) -> Override:
        """What the rules decide for the weight at `path`, which a node of type `op` uses."""
        decided = Override()
        for rule in self.rules:
            if rule.holds(path, op):
                decided = replace(decided, **rule.decided)
        return decided

    def unmatched(self, weights: Iterable[tuple[str, str]]) -> list[Rule]:
        """The rules that are for none of these weights, given as pairs of path and node type."""
        pairs = list(weights)
        return [rule for rule in self.rules if not any(rule.holds(*pair) for pair in pairs)]


def _rule(table: dict[str, Any], number: int, source: str) -> Rule:
    where = f"{source}: rule {number}"
    unknown = [key for key in table if key not in _KEYS]
    if unknown:
        raise OnnxoptError(f"{where}: there is no key {unknown[0]}; a rule has {', '.join(_KEYS)}")
    for key, expected, is_valid in (
        ("match", 'a pattern of paths, as in "layer4.*"', lambda v: isinstance(v, str)),
        ("op", 'a node type, as in "Conv"', lambda v: isinstance(v, str)),
        ("skip", "true or false", lambda v: isinstance(v, bool)),
        ("lossless", "true or false", lambda v: isinstance(v, bool)),
        ("max_bits", "a whole number from 2 to 16", lambda v: type(v) is int and 2 <= v <= 16),
        ("error", "a number above 0 and up to 1", lambda v: type(v) in (int, float) and 0 < v <= 1),
        ("step", 'a step as plans have them, as in "svd{rank=16}"', lambda v: isinstance(v, str)),
    ):
        if key in table and not is_valid(table[key]):
            raise OnnxoptError(f"{where}: {key} is {table[key]!r}, expected {expected}")
    if "match" not in table and "op" not in table:
        raise OnnxoptError(f'{where}: says not which weights it is for; add match = "pattern of paths" or op = "Conv"')
    decided = {"skip" if key == "lossless" else key: table[key] for key in table if key not in ("match", "op")}
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
    return Rule(number, table.get("match"), table.get("op"), decided)
