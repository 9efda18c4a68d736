"""The vocabulary of decisions: a Plan maps paths to Steps. It imports only the standard library.

A path names a weight. A structural step replaces its path by others (``svd{rank=8}`` on ``conv1.w`` gives ``conv1.w@u``
and ``conv1.w@v``), which may have steps of their own. A path without a step is stored lossless.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from onnxopt.errors import OnnxoptError
from onnxopt.spec.documents import parse_json
from onnxopt.spec.effort import Effort

Scalar = bool | int | float | str

_STEP = re.compile(r"\s*(?P<name>[a-z][a-z0-9_-]*)(?:\{(?P<args>(?:\"(?:[^\"\\]|\\.)*\"|[^{}\"])*)\})?\s*(?P<then>>|$)")
_ARGUMENT = re.compile(r'\s*(?P<key>[a-z][a-z0-9_]*)=(?P<value>"(?:[^"\\]|\\.)*"|[^,"]+)\s*(?:,|$)')
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Step:
    """One decision, for instance ``uniform{error=0.03}``. CLI, plan, container and report all write this text.

    Several follow one another: ``prune{keep=0.1} > codebook{k=32}``; iterating over a step gives each.
    """

    name: str
    args: tuple[tuple[str, Scalar], ...] = ()
    then: Step | None = None
    """What is done to the result."""

    def __str__(self) -> str:
        texts = []
        for step in self:
            body = ",".join(f"{key}={json.dumps(value)}" for key, value in step.args)
            texts.append(f"{step.name}{{{body}}}" if body else step.name)
        return " > ".join(texts)

    def __iter__(self) -> Iterator[Step]:
        step: Step | None = self
        while step is not None:
            yield Step(step.name, step.args)
            step = step.then

    def first(self, count: int) -> Step:
        """The first `count` of them, at least one."""
        return Step(self.name, self.args, self.then.first(count - 1) if self.then and count > 1 else None)

    @classmethod
    def parse(cls, text: str) -> Step:
        """Reads the text form. Raises OnnxoptError where the text is not a step."""
        found: list[tuple[str, tuple[tuple[str, Scalar], ...]]] = []
        end, more = 0, True
        while more:
            match = _STEP.match(text, end)
            if match is None:
                raise OnnxoptError(f"not a step: {text!r}; expected name{{key=value,...}}, as in uniform{{error=0.03}}")
            found.append((match["name"], _arguments(match["args"] or "", text)))
            end, more = match.end(), bool(match["then"])
        step = None
        for name, args in reversed(found):
            step = cls(name, args, step)
        assert step is not None
        return step


def _arguments(rest: str, text: str) -> tuple[tuple[str, Scalar], ...]:
    args: list[tuple[str, Scalar]] = []
    while rest:
        pair = _ARGUMENT.match(rest)
        try:
            value = parse_json(pair["value"]) if pair else None
        except ValueError:
            value = None
        if pair is None or not isinstance(value, bool | int | float | str):
            raise OnnxoptError(f"step {text!r}: {rest!r} is not key=value with a number, a string or true/false")
        args.append((pair["key"], value))
        rest = rest[pair.end() :]
    return tuple(args)


@dataclass(frozen=True, slots=True)
class Plan:
    """Every decision for one model, in the order in which they are carried out."""

    model_sha256: str
    """Of the source file, in hex: a plan is refused for another model."""
    steps: dict[str, Step] = field(default_factory=dict)
    data: str = ""
    """Digest of the data that the steps rely on; empty where they rely on none."""
    effort: Effort = Effort.DEFAULT
    """How much of that data the statistics were measured on."""
    values: str = ""
    """Digest of the values of tuned weights; empty where none was tuned."""

    def to_json(self) -> str:
        """The plan file's text."""
        steps = {path: str(step) for path, step in self.steps.items()}
        effort = {} if self.effort is Effort.DEFAULT else {"effort": self.effort}
        values = {"values": self.values} if self.values else {}
        document = {
            "onnxopt_plan": _VERSION, "model_sha256": self.model_sha256, "data": self.data, **effort, **values,
            "steps": steps,
        }  # fmt: skip
        return json.dumps(document, indent=1, ensure_ascii=False) + "\n"

    def stages(self) -> Iterator[Plan]:
        """Plans with the first step of every weight, with the first two, and so on; the last is the plan itself.

        ``prune{keep=0.2} > codebook{k=16}`` has two stages; the first only prunes.
        """
        for count in range(1, max((len(list(step)) for step in self.steps.values()), default=0) + 1):
            yield replace(self, steps={path: step.first(count) for path, step in self.steps.items()})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan file's text. Raises OnnxoptError where it is not one."""
        try:
            document = parse_json(text)
            version, sha256 = document["onnxopt_plan"], document["model_sha256"]
            data, effort = str(document.get("data", "")), Effort(document.get("effort", Effort.DEFAULT))
            values = str(document.get("values", ""))
            steps = {str(path): str(step) for path, step in document["steps"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OnnxoptError(f"not a plan: {type(error).__name__} {error}; `onnxopt plan` writes one") from error
        if version != _VERSION:
            raise OnnxoptError(f"plan version {version!r}; this onnxopt reads version {_VERSION}")
        parsed = {}
        for path, step in steps.items():
            try:
                parsed[path] = Step.parse(step)
            except OnnxoptError as error:
                raise OnnxoptError(f"plan, path {path!r}: {error}") from error
        return cls(str(sha256), parsed, data, effort, values)
