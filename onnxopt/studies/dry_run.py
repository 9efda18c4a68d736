"""What `optimize` would do and take, from a short run on a few samples, which writes nothing."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TypeVar, Unpack

from onnxopt import api
from onnxopt.build.checking import source_session
from onnxopt.build.preparation import prepare
from onnxopt.build.running import Running
from onnxopt.build.schedule import Seconds
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.chunks import CHUNK_BYTES
from onnxopt.calibration.collect import INPUTS, MOMENTS, sample_bytes
from onnxopt.calibration.gains import BY_GRADIENTS
from onnxopt.calibration.moments import PASS
from onnxopt.data import Data, Spec, custom_ops
from onnxopt.data.inputs import inputs_of
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Model, on_disk
from onnxopt.measure import memory
from onnxopt.request import Options, Request
from onnxopt.results.events import Event
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.evaluator import KEPT_INPUTS
from onnxopt.search.original import Original, Parts
from onnxopt.search.slope import likely_trials
from onnxopt.spec.contract import DEFAULT_ERROR, Contract
from onnxopt.spec.effort import Effort
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.tuning import Tuning
from onnxopt.strategies.baseline import compared, opened, steps_asked_for
from onnxopt.studies.strategy_time import strategy_time
from onnxopt.studies.training_time import Training, training_time

_T = TypeVar("_T")
_SAMPLES = 16
"""Samples of each part of the data that the short run takes."""
_LIVE = 2
"""Copies of layer inputs at a time: the runtime's, and ours."""
_LOADS = 3
"""Ways of loading in which the finished file is checked."""
LOSSLESS = "lossless"
_PASS = 0.4 * MOMENTS * PASS + 1e-9
"""Share, as it is told, at which the pass over the data ends."""
_TRIES_FOR = {"max_drop": 7, "target_size": 3, "target_ratio": 3}
"""Trials that a bound takes, where the noise of the first one does not tell."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What would be done to one weight."""

    path: str
    shape: tuple[int, ...]
    op: str
    """Type of the node that uses it."""
    elements: int
    bytes: int
    step: str
    """The names of its steps; "lossless" if it stays as it is."""
    reason: str
    """Why it stays as it is; empty if it does not."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What `optimize` would do and take."""

    source: Path
    bytes_before: int
    contract: str
    """Empty if every bit is kept."""
    data: str
    """Name of the calibration data; empty if there is none."""
    samples: int
    """Of the calibration data."""
    decisions: tuple[Decision, ...]
    seconds: float
    """In all."""
    reading: float
    """Seconds until statistics begin."""
    phases: Seconds
    training: Training | None
    """What `--tune` takes besides these phases; None without it."""
    strategies: float
    """Seconds that `--for` or `--activations` takes besides, roughly; 0 without them."""
    trials: int
    """Files that are likely to be built and measured until one meets the contract."""
    peak_memory: int
    """Bytes."""
    took: float
    """Seconds of this forecast."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run takes."""

    reading: float
    phases: Seconds
    trials: int
    more_memory: int
    """Bytes beyond what the short run took."""
    training: Training | None = None
    strategies: float = 0.0


@dataclass
class _Laps:
    """When the statistics told which share of what."""

    told: list[tuple[float, str, float]] = field(default_factory=list)

    def __call__(self, what: str, share: float) -> None:
        """See `Progress`."""
        self.told.append((time.monotonic(), what, share))

    def steps(self, which: Callable[[str, float], bool]) -> list[float]:
        """Seconds of each step of a kind."""
        pairs = itertools.pairwise(self.told)
        return [now - before for (before, _, _), (now, what, share) in pairs if which(what, share)]


def dry_run(
    model: Model, contract: Contract | None = None, data: Spec | None = None, **options: Unpack[Options]
) -> Forecast:
    """What `optimize` would do with a model, how long, and in how much memory. Arguments are as for `optimize`.

    The model is calibrated on a few samples, and one file of it is built and compared: every phase is measured so, and
    scaled to all of the data.

    Raises OnnxoptError if the model cannot be read or run, or the data does not fit it; Unsound if the model cannot be
    rewritten.
    """
    request = Request.of(contract, data, options)
    path, _folder = on_disk(model)
    started = time.monotonic()
    with custom_ops(request.custom_ops):
        source = api.plain_source(path, request)
        with prepare(source, request) as work:
            found = _lossless(work) if request.lossless else _forecast(work, started)
    return replace(found, took=time.monotonic() - started)


def _forecast(work: Workspace, started: float) -> Forecast:
    """The forecast of a search."""
    request = work.request
    asked = request.contract if request.recipe else request.contract.with_default(synthetic=request.data is None)
    session = source_session(work.source)
    try:
        parts = opened(work, session, asked.measure())
        few = parts.first(_SAMPLES, all(one.batch is None for one in inputs_of(session)))
        samples, compared_on, checked_on = (one.count() for one in (parts.calibration, parts.validation, parts.check))
        work, original, _ = compared(work, asked.measure(), few)
    except (OnnxoptError, OSError, MemoryError):
        raise
    except Exception:  # no inputs run, which is no error without data
        if request.data is not None:
            raise
        original, samples = None, 0
    of_source, each = (0.0, 0.0) if original is None else _per_sample(original)
    reading = time.monotonic() - started
    laps = _Laps()
    if original is not None:
        reading += max(0, compared_on - few.validation.count()) * each
        work = _measured(work.telling(laps), original, samples)
    search = ContractSearch(request.overrides, request.recipe, original, Effort(request.effort))
    trial, searched = _timed(lambda: search.run(work.telling(_quiet), Contract()))
    building, built = _timed(lambda: work.build(searched.plan))
    loading = max(0.0, trial - building - of_source)
    trials = _trials(request, asked, searched.trial.error)
    if original is None:
        phases, more, name = Seconds(0, 0, 0, trials * trial, building, trial), 0, ""
    else:
        once, batch = _read_once(parts.calibration)
        name, more = parts.calibration.name, _memory(work, parts, few, batch)
        phases = Seconds(
            once + _moments(laps, samples, few.calibration.count()),
            sum(laps.steps(lambda what, share: what == INPUTS and share > _PASS)),
            once + _gains(laps, work, parts.calibration, few.calibration),
            trials * (building + loading + compared_on * each),
            building,
            _LOADS * loading + checked_on * each,
        )
    training = None
    if original is not None and isinstance(request.tune, Tuning):
        training = training_time(work, replace(original, parts=parts), asked, request.tune, searched.trial.slope, each)
    strategies = 0.0
    if original is not None and (request.wanted or request.activations):
        strategies = strategy_time(work, replace(original, parts=parts), phases.search, phases.moments)
    costs = Costs(reading, phases, trials, more, training, strategies)
    return _told(work, built.events, str(asked), (name, samples), costs)


def _quiet(what: str, share: float) -> None:
    """Ignores progress."""


def _timed(do: Callable[[], _T]) -> tuple[float, _T]:
    """Seconds that a function takes, and what it returns."""
    began = time.monotonic()
    found = do()
    return time.monotonic() - began, found


def _measured(work: Workspace, original: Original, samples: int) -> Workspace:
    """The workspace with statistics of few samples; without any, where none can be measured."""
    steps = steps_asked_for(work)
    if not (original.metric or original.validation.measurable):
        return work.with_steps(steps)
    ready = work.calibrated(original.parts.calibration, samples).with_steps(steps)
    ready.progress("calibrating", 0.0)
    try:
        ready.measure()
    except (OnnxoptError, OSError, MemoryError):
        raise
    except Exception:  # `optimize` weighs weights by their size then
        return work.with_steps(steps)
    return ready


def _per_sample(original: Original) -> tuple[float, float]:
    """Seconds of comparing the source on the few samples, and those of one of them."""
    began = time.monotonic()
    original.validation.compare(Running(Path(), original.session))
    took = time.monotonic() - began
    return took, took / max(1, original.validation.samples)


def _read_once(data: Data) -> tuple[float, int]:
    """Seconds of reading all of the data once, or of making it, from one batch of each law; samples of the largest."""
    seconds, largest = 0.0, 0
    for law in data.by_law:
        took, batch = _timed(next(iter(law.pending())).read)
        seconds += took * law.count() / max(1, batch.size)
        largest = max(largest, batch.size)
    return seconds, largest


def _moments(laps: _Laps, samples: int, few: int) -> float:
    """Seconds of the pass over the data, whose first chunk opens a session."""
    steps = laps.steps(lambda what, share: what == INPUTS and share <= _PASS)
    each = median(steps[1:]) if len(steps) > 1 else sum(steps)
    return steps[0] + each * (samples * len(steps) / few - 1) if steps else 0.0


def _gains(laps: _Laps, work: Workspace, data: Data, few: Data) -> float:
    """Seconds of gains: the first chunk, which prepares the others; the others; what follows the last."""
    steps = laps.steps(lambda what, share: what == BY_GRADIENTS)
    after = laps.steps(lambda what, share: what not in (BY_GRADIENTS, INPUTS))
    if not steps:
        return sum(after)
    use, laws = work.budget.use, data.by_law
    of_law = max(use.gradients_a_law, use.gradients // len(laws))
    chunks = sum(min(of_law, -(-law.count() * len(steps) // few.count())) for law in laws)
    each = median(steps[1:]) if len(steps) > 1 else steps[0]
    return steps[0] + each * (chunks - 1) + sum(after)


def _trials(request: Request, asked: Contract, error: float | None) -> int:
    """How many files the search is likely to try."""
    if request.recipe is not None and not request.recipe.searched:
        return 1
    bound = next((count for name, count in _TRIES_FOR.items() if getattr(asked, name) is not None), None)
    if bound is None and error is not None:
        return likely_trials(error / DEFAULT_ERROR)
    return bound or 1


def _memory(work: Workspace, parts: Parts, few: Parts, samples: int) -> int:
    """Bytes that all of the data takes beyond what the few samples took: layer inputs of a chunk, and inputs that are
    kept for comparing.

    Arguments:
        samples: of the largest batch, which chunks are cut from.
    """
    one = sample_bytes(work.graph, work.sites, few.calibration, work.budget)
    chunk = min(samples * one, CHUNK_BYTES) - min(few.calibration.count() / 2 * one, CHUNK_BYTES)
    batch = next(iter(few.validation))
    own = sum(array.nbytes for array in batch.feeds.values()) / max(1, batch.size)
    return int(_LIVE * max(0, chunk)) + int(min(KEPT_INPUTS, parts.validation.count() * own))


def _lossless(work: Workspace) -> Forecast:
    """The forecast where nothing is measured: the file is built, and not checked."""
    building, built = _timed(lambda: work.build(Plan(work.source.sha256)))
    return _told(work, built.events, "", ("", 0), Costs(0.0, Seconds(0, 0, 0, 0, building, building), 0, 0))


def _told(work: Workspace, events: Sequence[Event], contract: str, data: tuple[str, int], costs: Costs) -> Forecast:
    request = work.request
    decisions = {event.path: _decision(event) for event in events}
    kept = {site.path: "no rule or search decides on it" for site in work.sites}
    if request.lossless:
        kept = dict.fromkeys(kept, "every bit is asked for")
    decisions |= {
        path: _kept(work, path, why) for path, why in {**kept, **work.graph.kept()}.items() if path not in decisions
    }
    besides = costs.strategies + (costs.training.seconds if costs.training else 0.0)
    seconds = costs.reading + sum(costs.phases.phases) + besides
    return Forecast(
        work.source.path, work.bytes_before, contract, *data, tuple(decisions.values()), seconds, costs.reading,
        costs.phases, costs.training, costs.strategies, costs.trials,
        (memory.peak() or 0) + costs.more_memory, 0.0,
    )  # fmt: skip


def _kept(work: Workspace, path: str, why: str) -> Decision:
    """A weight that no pass may act on."""
    values = work.graph.values(path)
    return Decision(path, values.shape, "", values.size, values.nbytes, LOSSLESS, why)


def _decision(event: Event) -> Decision:
    names = " > ".join(one.name for one in Step.parse(event.step)) if event.step != LOSSLESS else LOSSLESS
    return Decision(event.path, event.shape, event.op, event.elements, event.bytes_before, names, event.reason)
