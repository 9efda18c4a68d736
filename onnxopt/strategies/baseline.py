"""The baseline of all strategies: the calibrated model, its data, and the result of the search without strategies."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import inf
from pathlib import Path

import onnxruntime

from onnxopt.build.checking import source_session
from onnxopt.build.decisions import structural_steps
from onnxopt.build.observing import observed_in, observing_session
from onnxopt.build.preparation import Reference, sound
from onnxopt.build.schedule import Schedule, Size, expected
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.chunks import Chunks, first_samples, one_sample
from onnxopt.calibration.collect import sample_bytes
from onnxopt.calibration.gains import gradient_samples
from onnxopt.data import Array, Data, Hints, joined
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import LARGEST_INLINE
from onnxopt.metrics import Metric
from onnxopt.metrics.observed import Observed
from onnxopt.request import Request
from onnxopt.search.contract_search import ContractSearch, Searched
from onnxopt.search.knobs import Knobs
from onnxopt.search.original import Original, Parts, open_parts
from onnxopt.spec.contract import Contract
from onnxopt.spec.effort import Effort
from onnxopt.spec.plan import Step
from onnxopt.spec.recipes import MIDDLE

_FEW = 8
"""Samples whose run tells how fast this machine is."""
_NOTHING_SHOWS = ("noise is not measured, because no output shows a number that depends on the weights; weights are "
                  "quantized gently, by their own noise")  # fmt: skip


@dataclass(frozen=True)
class Baseline:
    """The model without the strategy, and the search result for it."""

    request: Request
    work: Workspace
    search: ContractSearch
    contract: Contract
    """Includes the default bound if the user gives none."""
    searched: Searched | None = None
    """None for exact strategies, which run before the search."""
    not_calibrated: str = ""
    """Why there are no statistics; empty if there are."""

    @property
    def original(self) -> Original:
        """The reference for comparisons. `refusal` reports a model that has none."""
        assert self.search.original is not None
        return self.search.original

    @property
    def kept(self) -> Searched:
        """The search result without the strategy."""
        assert self.searched is not None
        return self.searched

    @cached_property
    def sample(self) -> Mapping[str, Array]:
        """Feeds of one sample, for timing."""
        return one_sample(self.work.graph.model, self.original.parts.calibration).feeds

    @cached_property
    def noise(self) -> float:
        """Noise-to-signal ratio of the kept file's outputs. Measured here if the search did not measure it."""
        trial = self.kept.trial
        if trial.error is not None:
            return trial.error
        _, found = self.work.try_plan(self.kept.plan, self.original.noise)
        return inf if found is None or found.error is None else found.error

    @cached_property
    def undecided(self) -> frozenset[str]:
        """Paths of weights that no user rule mentions and that are neither factors nor integers already."""
        decided, factored = self.search.overrides.decided(self.work.sites), self.work.form.chains
        integers = self.work.graph.grids
        return frozenset(
            path
            for path, one in decided.items()
            if one.says_nothing and path.rpartition("@")[0] not in factored and path not in integers
        )

    def refusal(self, inline_only: bool) -> str:
        """Why a strategy cannot propose anything for this model; empty if it can.

        Arguments:
            inline_only: whether the strategy needs the model as a single protobuf.
        """
        if self.not_calibrated:
            return f"nothing is known of its layers, as it is not calibrated: {self.not_calibrated}"
        return "the model is over 2 GB" if inline_only and self.work.bytes_before > LARGEST_INLINE else ""


def calibrate(work: Workspace, steps: Mapping[str, Step] | None = None) -> Baseline:
    """Opens the data or generates synthetic inputs, compares the cleaned model with the source on some of it, applies
    structural steps, and measures statistics.

    Arguments:
        steps: structural steps; by default, those from the recipe or the user's rules.

    A model that does not run on synthetic inputs is not an error, unless the contract bounds a metric. Where it runs,
    every file is compared with it, even if its statistics cannot be measured. Raises OnnxoptError if stock ONNX Runtime
    does not load the model, the data does not fit it, a rule matches no weight, or the statistics cannot be stored;
    Unsound if the model cannot be rewritten.
    """
    request, path = work.request, work.source.path
    contract = request.contract if request.recipe else request.contract.with_default(synthetic=request.data is None)
    search = ContractSearch(request.overrides, request.recipe, None, Effort(request.effort))
    work, original, reason = compared(work, contract.measure())
    # Rules with "@" match factors, which do not exist yet.
    unmatched = [
        rule for rule in request.overrides.unmatched(work.sites) if "@" not in rule.conditions.get("match", "")
    ]
    if unmatched:
        raise OnnxoptError(f"{unmatched[0]}: matches no weight; `onnxopt plan` lists this model's weights")
    if steps is None:
        steps = steps_asked_for(work)
    if original is None:
        work.progress(f"weighing weights by their size, because no inputs run: {reason}", 0.4)
        return Baseline(request, work.with_steps(steps), search, contract, not_calibrated=reason)
    search = replace(search, original=original)
    why = ", because no data was given" if request.data is None else ""
    work.progress(f"calibrating on {original.parts.calibration.name}{why}", 0.0)
    try:
        if not (original.metric or original.validation.measurable):
            return Baseline(request, work.with_steps(steps), search, contract, not_calibrated=_NOTHING_SHOWS)
        ready = work.calibrated(original.parts.calibration).with_steps(steps)
        if isinstance(request.progress, Schedule):
            request.progress.expect(expected(_size(ready, original)))
        ready.measure()
        return Baseline(request, ready, search, contract)
    except OSError as error:
        raise OnnxoptError(f"{path}: the statistics cannot be kept: {error}; XDG_CACHE_HOME names another place for "
                           "them") from error  # fmt: skip
    except (OnnxoptError, MemoryError):
        raise
    except Exception as error:  # a fault of the measurements: the file is compared with the source all the same
        if request.data is not None:
            _require_running(path, original)
        reason = f"its statistics cannot be measured ({type(error).__name__}: {first_line(error)})"
        work.progress(f"weighing weights by their size: {reason}", 0.4)
        return Baseline(request, work.with_steps(steps), search, contract, not_calibrated=reason)


def _size(work: Workspace, original: Original) -> Size:
    """What the times of this run depend on."""
    parts, model = original.parts, work.graph.model
    few = first_samples(model, parts.calibration, _FEW)
    began = time.perf_counter()
    original.session.run(None, few.feeds)
    each = (time.perf_counter() - began) / max(1, few.size)
    one = sample_bytes(work.graph, work.sites, parts.calibration, work.budget)
    chunks = Chunks.fitting(model, parts.calibration, {"": one}, work.budget.use)
    laws, use = len(parts.calibration.by_law), work.budget.use
    calibration, compared_on = parts.calibration.count(), parts.validation.count()
    gradients = laws * max(use.gradients_a_law, use.gradients // laws) * max(1, gradient_samples(chunks))
    elements = sum(site.elements for site in work.sites)
    return Size(calibration, min(calibration, gradients), compared_on, each, elements, len(model.graph.node))


def steps_asked_for(work: Workspace) -> dict[str, Step]:
    """The structural steps of the recipe or of the user's rules."""
    asked = work.request
    rules = Knobs(asked.recipe).rules(MIDDLE, work.steps_at, asked.overrides) if asked.recipe else None
    return structural_steps(work.sites, rules or asked.overrides)


def compared(
    work: Workspace, metric: Metric | None, parts: Parts | None = None
) -> tuple[Workspace, Original | None, str]:
    """The workspace, without clean-ups that change outputs; the original model and its data, or why it has none.

    Synthetic inputs on which the model does not run are left out.

    Arguments:
        parts: the data, if it is opened already.

    Raises OnnxoptError if the model does not load, or the data does not fit it; Unsound if it cannot be rewritten.
    """
    request, path = work.request, work.source.path
    made_up = request.data is None and request.evaluation is None and metric is None
    session = source_session(work.source)
    try:
        if parts is None:
            parts = opened(work, session, metric)
        try:
            original, reference = _opened(work, session, parts, metric)
        except Exception as error:
            if not made_up or isinstance(error, MemoryError):
                raise
            runnable = Parts(*(_runnable(part, session) for part in (parts.calibration, parts.validation, parts.check)))
            original, reference = _opened(work, session, runnable, metric)
    except (OSError, MemoryError):
        raise
    except Exception as error:
        if made_up:
            return work, None, first_line(error)
        if isinstance(error, OnnxoptError):
            raise
        raise OnnxoptError(f"{path}: does not run: {first_line(error)}") from error
    return sound(work, reference), original, ""


def opened(work: Workspace, session: onnxruntime.InferenceSession, metric: Metric | None) -> Parts:
    """The data of a request, or synthetic inputs, by use. Raises as `open_parts`."""
    one = work.request
    hints = Hints(work.source.model)
    return open_parts(session, hints, one.data, one.evaluation, metric is not None, Effort(one.effort))


def _opened(
    work: Workspace, session: onnxruntime.InferenceSession, parts: Parts, metric: Metric | None
) -> tuple[Original, Reference]:
    """Raises what the runtime raises if the source does not run on every batch that files are compared on."""
    observed = observed_in(work.source)
    try:
        return _observed(work, session, parts, metric, observed)
    except (OnnxoptError, MemoryError):
        raise
    except Exception:  # the runtime fuses other nodes where values are outputs, and may fail
        if not observed.hidden:
            raise
        return _observed(work, session, parts, metric, observed.visible)


def _observed(
    work: Workspace, session: onnxruntime.InferenceSession, parts: Parts, metric: Metric | None, observed: Observed
) -> tuple[Original, Reference]:
    opening = partial(observing_session, work.source, observed)
    original = Original(session, parts, metric, observed, opening, pool=work.request.pool)
    _ = original.validation
    return original, Reference.of(work, original)


def _runnable(data: Data, session: onnxruntime.InferenceSession) -> Data:
    """The batches on which the model runs. Raises the runtime's error if it runs on none."""
    if data.laws:
        return joined([_runnable(law, session) for law in data.laws], data.name, data.row_noise)
    chosen, failure = set[int](), None
    for index, batch in enumerate(data):
        try:
            session.run(None, batch.feeds)
            chosen.add(index)
        except Exception as error:  # the runtime's own types
            failure = error
    if failure is not None and not chosen:
        raise failure
    return replace(data, pending=lambda: (one for i, one in enumerate(data.pending()) if i in chosen))


def _require_running(path: Path, original: Original) -> None:
    """Raises OnnxoptError if the source does not run on the user's calibration data."""
    data = original.parts.calibration
    try:
        for batch in data:
            original.session.run(None, batch.feeds)
    except (OnnxoptError, MemoryError):
        raise
    except Exception as error:  # the runtime's own types
        raise OnnxoptError(f"{path}: does not run on {data.name}: {first_line(error)}") from error
