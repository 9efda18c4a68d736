"""The baseline of all strategies: the calibrated model, its data, and the result of the search without strategies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from onnxopt.build.decisions import structural_steps
from onnxopt.build.workspace import LARGEST_INLINE, Workspace
from onnxopt.calibration.chunks import one_sample
from onnxopt.data import Array, Hints, quiet_session
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.request import Request
from onnxopt.search.contract_search import ContractSearch, Searched
from onnxopt.search.knobs import Knobs
from onnxopt.search.original import Original, open_parts
from onnxopt.spec.contract import Contract
from onnxopt.spec.plan import Step
from onnxopt.spec.recipes import MIDDLE


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
        return found.error if found else 0.0

    @cached_property
    def undecided(self) -> frozenset[str]:
        """Paths of weights that no user rule mentions and that are not factors."""
        decided, factored = self.search.overrides.decided(self.work.sites), self.work.form.chains
        return frozenset(
            path for path, one in decided.items() if one.says_nothing and path.rpartition("@")[0] not in factored
        )

    def refusal(self, inline_only: bool) -> str:
        """Why a strategy cannot propose anything for this model; empty if it can.

        Arguments:
            inline_only: whether the strategy needs the model as a single protobuf.
        """
        if self.search.original is None:
            return "the model does not run, so nothing is known of its layers"
        return "the model is over 2 GB" if inline_only and self.work.bytes_before > LARGEST_INLINE else ""


def calibrate(work: Workspace, steps: Mapping[str, Step] | None = None) -> Baseline:
    """Opens the data or generates synthetic inputs, applies structural steps, and measures statistics.

    Arguments:
        steps: structural steps; by default, those from the recipe or the user's rules.

    A model that does not run on synthetic inputs is not an error, unless the contract bounds a metric. Raises
    OnnxoptError if the data does not fit the model, a rule matches no weight, or the statistics cannot be stored.
    """
    request, path = work.request, work.source.path
    contract = request.contract if request.recipe else request.contract.with_default(synthetic=request.data is None)
    metric, search = contract.measure(), ContractSearch(request.overrides, request.recipe, None)
    # Rules with "@" match factors, which do not exist yet.
    unmatched = [
        rule for rule in request.overrides.unmatched(work.sites) if "@" not in rule.conditions.get("match", "")
    ]
    if unmatched:
        raise OnnxoptError(f"{unmatched[0]}: matches no weight; `onnxopt plan` lists this model's weights")
    if steps is None:
        rules = Knobs(request.recipe).rules(MIDDLE, work.steps_at, request.overrides) if request.recipe else None
        steps = structural_steps(work.sites, rules or request.overrides)
    try:
        parts = open_parts(
            quiet_session(str(path)), Hints(work.source.model), request.data, request.evaluation, bool(metric)
        )  # fmt: skip
        why = ", because no data was given" if request.data is None else ""
        work.progress(f"calibrating on {parts.calibration.name}{why}", 0.0)
        ready = work.calibrated(parts.calibration).with_steps(steps)
        ready.measure()
        return Baseline(request, ready, replace(search, original=Original(path, parts, metric)), contract)
    except OSError as error:
        raise OnnxoptError(f"{path}: the statistics cannot be kept: {error}; XDG_CACHE_HOME names another place for "
                           "them") from error  # fmt: skip
    except Exception as error:
        if request.data is not None or request.evaluation is not None or metric or isinstance(error, MemoryError):
            if isinstance(error, OnnxoptError | MemoryError):
                raise
            raise OnnxoptError(f"{path}: does not run: {first_line(error)}") from error
        reason = first_line(error)
        work.progress(f"weighing weights by their size, because no inputs run: {reason}", 0.4)
        return Baseline(request, work.with_steps(steps), search, contract, not_calibrated=reason)
