"""Compares published systems with the engine: one model, one contract, the same data."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack

import onnx

from onnxopt import api
from onnxopt.data import Array, Spec, open_data
from onnxopt.errors import OnnxoptError
from onnxopt.files.set_aside import elements_of
from onnxopt.graph import Source, macs, read, weight_macs
from onnxopt.measure.benchmark.inputs import inputs_for
from onnxopt.pool import Pool, Shared, Threads
from onnxopt.request import Options
from onnxopt.results.result import Result
from onnxopt.runtime import archive
from onnxopt.runtime.session import load_checked
from onnxopt.search.evaluator import Comparison
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import Contract
from onnxopt.spec.progress import Progress
from onnxopt.spec.recipes import Recipe
from onnxopt.spec.tuning import Tuning

ENGINE = "engine"
"""Name of the engine in comparisons with recipes."""


@dataclass(frozen=True, slots=True)
class System:
    """The result of one system."""

    name: str
    """Name of the recipe, its file name without folders, or `ENGINE`; with ", tuned" where weights were trained."""
    size: int
    """Bytes of the file."""
    met: bool
    """Whether the file meets the contract. If not, it is the one that comes closest."""
    found: Comparison | None
    """Comparison on the data of the check; None if the model does not run."""
    macs: int | None
    """Multiply-accumulates of one sample; None if they cannot be counted."""
    nonzero_macs: int | None
    """Multiply-accumulates with nonzero weights."""
    zeros: float
    """Share of weight elements that are zero, without biases."""
    seconds: float
    """Time of the whole run: calibration, search and check."""
    curve: tuple[Trial, ...]
    """The Pareto front of the measured files, largest first."""


@dataclass(frozen=True, slots=True)
class Systems:
    """The result of `compare`. docs/result.md describes it as JSON."""

    schema: int = field(default=1, init=False)
    """Version of the JSON; increases when a field changes its meaning or is removed."""
    kind: str = field(default="compare", init=False)
    source: Path
    bytes_before: int
    """Size of the source file, external data included."""
    macs_before: int | None
    contract: str
    """The contract in words."""
    bounds: Contract
    """The contract as numbers."""
    data: str
    """Name of the data of all checks; empty if the model does not run."""
    systems: tuple[System, ...]
    """The engine first."""
    failed: dict[str, str]
    """Recipes that produce no file for this model, and why."""
    command: str = ""
    """The command line, quoted for a shell; empty if there was none."""


class CompareOptions(TypedDict, total=False):
    """Fields of `Request` that `compare` takes as keywords."""

    evaluation: Spec | None
    max_ram: int
    progress: Progress | None
    tune: Tuning | str | None
    pool: Pool
    """Where systems run: here one after another, on a cluster each on a worker."""


@dataclass(frozen=True, slots=True)
class _Question:
    """What all systems are asked."""

    model: Path
    contract: Contract
    data: Spec | None
    options: CompareOptions
    feeds: Mapping[str, Array] | None
    """Of one sample, for counting."""


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A system that is to run."""

    name: str
    recipe: Recipe | None
    tune: Tuning | str | None
    start: float = 0.0
    """Share of the candidates before it."""


@dataclass(frozen=True, slots=True)
class _Ran:
    """What became of a candidate."""

    name: str
    system: System | None
    data: str = ""
    """Name of the data of its check; empty if there was none."""
    reason: str = ""
    """Why it gives no file."""


def compare(
    model: str | os.PathLike[str],
    recipes: Sequence[Recipe],
    contract: Contract,
    data: Spec | None = None,
    **options: Unpack[CompareOptions],
) -> Systems:
    """Compresses the model at `model` with the engine and with each recipe, separately, and keeps no file.

    With `tune`, the engine and each recipe that says when to train run a second time, tuned.

    Without a bound, all use the engine's default contract. A contract that some systems miss is not an error here.
    Other arguments, and errors of the engine, are as for `api.optimize`.
    """
    contract = contract.with_default(synthetic=data is None)
    tell = options.pop("progress", None) or (lambda what, share: None)
    pool = options.pop("pool", None) or Threads()
    contract.check()
    source, path = read(model), Path(model)
    feeds = _sample(source, data)
    candidates = list(_candidates(recipes, options.pop("tune", None)))
    question = pool.share(_Question(path, contract, data, options, feeds))
    part, found = 1 / len(candidates), list[_Ran]()
    work = partial(_ran, question, told=tell if pool.here else None, part=part)
    for one in pool.stream(work, candidates):
        found.append(one)
        if not pool.here:
            tell(f"{one.name}: done", len(found) * part)
    before, _ = _counted(source.model, feeds)
    checked = next((one.data for one in reversed(found) if one.system), "")
    systems = tuple(one.system for one in found if one.system)
    failed = {one.name: one.reason for one in found if not one.system}
    return Systems(source.path, source.size, before, str(contract), contract, checked, systems, failed)


def _candidates(recipes: Sequence[Recipe], tune: Tuning | str | None) -> Iterator[_Candidate]:
    """The engine, then every recipe, each followed by itself with training."""
    found = list[_Candidate]()
    for recipe in (None, *recipes):
        name = Path(recipe.name).stem if recipe else ENGINE
        found.append(_Candidate(name, recipe, None))
        if tune is not None and (recipe is None or recipe.tune):
            found.append(_Candidate(f"{name}, tuned", recipe, tune))
    for index, one in enumerate(found):
        yield replace(one, start=index / len(found))


def _ran(question: Shared[_Question], one: _Candidate, told: Progress | None, part: float) -> _Ran:
    """Runs one system. Raises OnnxoptError if it is the engine and fails."""
    asked = question.value
    given = Options(allow_miss=True, recipe=one.recipe, tune=one.tune)
    given.update(asked.options)  # type: ignore[typeddict-item]
    if told:
        given["progress"] = _within(told, one.name, one.start, part)
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = api.optimize(asked.model, Path(folder) / "small.onnx", asked.contract, asked.data, **given)
        except OnnxoptError as error:
            if one.recipe is None:
                raise
            return _Ran(one.name, None, reason=str(error))
        return _Ran(one.name, _system(one.name, result, asked.feeds), result.check.data if result.check else "")


def front(trials: Sequence[Trial]) -> tuple[Trial, ...]:
    """The Pareto front of the measured trials in size and loss, largest first."""
    best: list[tuple[float, Trial]] = []
    measured = [(cost, trial) for trial in trials if (cost := loss(trial)) is not None]
    for cost, trial in sorted(measured, key=lambda pair: (pair[1].size, pair[0])):
        if not best or cost < best[-1][0]:
            best.append((cost, trial))
    return tuple(trial for _, trial in reversed(best))


def loss(trial: Trial) -> float | None:
    """The loss of a file: the drop of the metric, or else the noise in the outputs; None if not measured."""
    return trial.error if trial.drop is None else trial.drop


def _within(tell: Progress, name: str, start: float, part: float) -> Progress:
    """Reports the progress of one system as a part of the total."""
    return lambda what, share: tell(f"{name}: {what}", start + part * share)


def _system(name: str, result: Result, feeds: Mapping[str, Array] | None) -> System:
    plain = read(result.output).model if result.unchanged else archive.decompress(result.output)
    matrices = [event for event in result.events if len(event.shape) > 1 and event.elements]
    zeros = sum(event.zeros * event.elements for event in matrices) / max(1, sum(e.elements for e in matrices))
    found = result.check.found if result.check else None
    counted = _counted(plain, feeds)
    return System(name, result.bytes_after, result.met, found, *counted, zeros, result.seconds, front(result.trials))


def _sample(source: Source, data: Spec | None) -> Mapping[str, Array] | None:
    """One sample for counting; None if the model does not run."""
    try:
        session = load_checked(source.path)
        given = None if data is None else open_data(data, session)
        return inputs_for(session, source.model, given, 1).batches(1, 1)[0]
    except OnnxoptError:
        return None


def _counted(model: onnx.ModelProto, feeds: Mapping[str, Array] | None) -> tuple[int | None, int | None]:
    """Multiply-accumulates, in total and with nonzero weights; None if they cannot be counted."""
    if feeds is None:
        return None, None
    try:
        total, by_weight = sum(macs(model, feeds).values()), weight_macs(model, feeds)
    except OnnxoptError:
        return None, None
    values = {t.name: elements_of(t) for t in model.graph.initializer if t.name in by_weight}
    idle = sum(count * int((values[name] == 0).sum()) // max(1, values[name].size) for name, count in by_weight.items())
    return total, total - idle
