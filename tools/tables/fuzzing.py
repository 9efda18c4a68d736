"""What random models and random containers showed."""

from __future__ import annotations

import fuzz_models
import fuzz_reader
from common.kept import ONNXOPT
from common.pages import machine, markdown
from fuzz_reader import Run
from fuzzing.checking import KINDS, LIMITS, ROUNDING
from fuzzing.running import Summary, fuzz
from tables import Scope, Table

SEEDS = tuple(range(1, 11))
MODELS = 1000
"""Of each seed."""
_MEANING = {
    "crash": "an exception that is no `OnnxoptError`, or a result that does not load or run",
    "difference": "without loss an output differs in a bit, or two ways of loading differ",
    "silent difference": "with loss the outputs are further off than the result says",
    "interface": "inputs or outputs have other names, types or shapes",
    "refused": "a model that ONNX Runtime runs is refused, beyond the limits below",
    "larger": "the result is larger than the source",
    "killed": "the process died",
    "slow": "20 seconds were not enough",
}


def of_seed(seed: int, count: int) -> Summary:
    """The models of one seed."""
    return fuzz(fuzz_models.numbers(seed, count))


def measure_models(scope: Scope) -> dict[int, Summary]:
    """By seed."""
    count = scope.limit or MODELS
    return {seed: ONNXOPT.once(of_seed, seed, count) for seed in SEEDS}


def models_text(found: dict[int, Summary]) -> str:
    """The command, counts of models by kind and seed, and the limits."""
    every = Summary()
    for one in found.values():
        every.models += one.models
        every.calls += one.calls
        every.operators += one.operators
        every.seconds += one.seconds
    count = max(one.models for one in found.values())
    calls = ", ".join(f"{calls:,} {mode}" for mode, calls in every.calls.most_common())
    rows = [
        [f"{kind}: {_MEANING[kind]}", *(f"{one.kinds[kind]}" for one in found.values()),
         f"{sum(one.kinds[kind] for one in found.values()):,}"]
        for kind in KINDS
    ]  # fmt: skip
    lines = [
        f"`python tools/fuzz_models.py --seed N --count {count}` for N from {min(found)} to {max(found)}: "
        f"{every.models:,} models with {len(every.operators)} operators, "
        f"{every.seconds / max(every.models, 1):.2f} s each ({machine()}). Calls of `optimize`: {calls}.",
        "",
        markdown(["models with a finding, by seed", *map(str, found), "all"], "l" + "r" * (len(found) + 1), rows),
    ]
    lines += ["", "Limits:", "", *(f"- {reason}" for reason in (*LIMITS.values(), ROUNDING))]
    return "\n".join(lines)


def measure_containers(scope: Scope) -> list[Run]:
    """The runs that are on record; `make fuzz` adds one."""
    return fuzz_reader.records()


def containers_text(runs: list[Run]) -> str:
    """A row for each run, and their sum."""
    rows = [
        [f"{run.executions:,}", f"{run.seconds / 60:,.0f}", f"{run.longest:,}", f"{run.edges:,}", f"{run.memory}",
         f"{run.findings}"]
        for run in runs
    ]  # fmt: skip
    executions, minutes = sum(run.executions for run in runs), sum(run.seconds for run in runs) / 60
    total = [f"**{executions:,}**", f"{minutes:,.0f}", "", "", "", f"**{sum(run.findings for run in runs)}**"]
    columns = ["executions", "minutes", "longest input, bytes", "edges", "MB", "findings"]
    return markdown(columns, "rrrrrr", [*rows, total])


TABLES = (
    Table("fuzzed-models", "docs/reliability.md", 60, measure_models, models_text),
    Table("fuzzed-containers", "docs/reliability.md", 0, measure_containers, containers_text),
)
