"""Finds the decisions that meet a contract, on data or on what is made up for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path

import onnxruntime

from onnxopt.build import execute_plan
from onnxopt.build.workspace import Workspace
from onnxopt.data import Data, Spec, input_scale, open_data, quiet_session, split, synthetic
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.metrics import Metric
from onnxopt.search import slope as search
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import DEFAULT_ERROR, Contract
from onnxopt.spec.overrides import Override, Overrides, Rule
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Progress
from onnxopt.spec.recipes import GENTLEST, MIDDLE, STEP, STRONGEST, Recipe

_HELD_BACK = 0.25
_CALIBRATION, _VALIDATION, _NOISE = 1024, 4096, 256
"""Samples that are enough: to calibrate on, to measure a metric on, to measure noise on."""
_BY_HEART = 0.5
"""Share of an allowed drop that may show on images that the model was trained on until it made no mistakes: what it
knows by heart it keeps longer. On CIFAR-10, ResNet-32 and -56 lose 1.3 to 2 times as much on images new to them."""
_FIRST = 0.5
"""Share of an allowed loss for all layers alike, where layers are searched too; the rest is for those that go on."""
_KNOB_TURNS, _LAYER_TURNS = 12, 20
"""Tries at most of a recipe's knobs, and of single weights, when they go on alone."""
_MADE_UP = 320
"""Samples that are made up where there is no data."""


@dataclass(frozen=True, slots=True)
class _Parts:
    """What data is for. The parts have no batch in common."""

    calibration: Data
    validation: Data
    """Measured while searching."""
    check: Data
    """Measured once, at the end."""


class ContractSearch:
    """One contract for one model: `calibrate`, then `run`.

    With a recipe, its strength is searched for in the place of a slope, and without a bound nothing is searched.
    Raises OnnxoptError where the overrides name a weight that is not there.
    """

    def __init__(
        self, engine: Workspace, contract: Contract, overrides: Overrides, recipe: Recipe | None = None
    ) -> None:
        self.contract, self._overrides, self._recipe = contract, overrides, recipe
        self.metric: Metric | None = contract.measure()
        self.trials: list[Trial] = []
        self.calibrated = ""
        """Name of the data that the weights were calibrated on; empty where on none."""
        self.memorised = False
        """Whether the original makes no mistakes on the data, as `run` found."""
        self.not_calibrated = ""
        """Why there was no calibration."""
        self._engine = engine
        self._parts: _Parts | None = None
        self._session: onnxruntime.InferenceSession | None = None
        self._tried: dict[str, Trial] = {}
        self._chains: Mapping[str, Step] = {}
        self._begin: float | None = None
        """The slope to begin with, where that is known."""
        self._ahead: Mapping[str, int] = {}
        """How many steps knobs of the recipe have gone on alone."""
        self._own: Mapping[str, int] = {}
        """The same of all knobs of a weight, by path."""
        unmatched = overrides.unmatched(engine.sites)
        # Others are for what is yet to be made.
        unmatched = [rule for rule in unmatched if "@" not in rule.conditions.get("match", "")]
        if unmatched:
            raise OnnxoptError(f"{unmatched[0]}: matches no weight; `onnxopt plan` lists this model's weights")

    def calibrate(
        self, data: Spec | None, evaluation: Spec | None, chains: Mapping[str, Step] | None = None,
        equalized: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Opens the data, or makes some up, and measures the statistics on it.

        Layers that are to become `chains` do so, and what comes out is measured again; without any given, those of the
        overrides. The channels of values that are to be `equalized` are made alike after that.

        A model that does not run on made-up inputs is no error, unless the contract bounds a metric. Raises
        OnnxoptError where the data is none for this model, or the statistics cannot be kept.
        """
        path = self._engine.source.path
        if self._recipe is None:
            self.contract = self.contract.with_default(synthetic=data is None)
        if chains is None:
            chains = execute_plan.chains(self._engine.sites, self._rules(MIDDLE))
        self._chains = chains
        try:
            parts = self._open(quiet_session(str(path)), data, evaluation)
            made_up = ", for no data was given" if data is None else ""
            self._engine.progress(f"calibrating on {parts.calibration.name}{made_up}", 0.0)
            self._engine.calibrate(parts.calibration)
            if chains:
                self._engine.factorise(chains)
                self._engine.calibrate(parts.calibration)
            if equalized and self._engine.equalize(parts.calibration, lambda one: one.value in equalized):
                self._engine.calibrate(parts.calibration)
            self._parts, self.calibrated = parts, parts.calibration.name
        except OSError as error:
            raise OnnxoptError(f"{path}: the statistics cannot be kept: {error}; XDG_CACHE_HOME names another place "
                               "for them") from error  # fmt: skip
        except Exception as error:
            if data is not None or evaluation is not None or self.metric or isinstance(error, MemoryError):
                if isinstance(error, OnnxoptError | MemoryError):
                    raise
                raise OnnxoptError(f"{path}: does not run: {first_line(error)}") from error
            self.not_calibrated = first_line(error)
            self._engine.progress(f"weighing weights by their size, for no inputs run: {self.not_calibrated}", 0.4)
            if chains:
                self._engine.factorise(chains)

    def fork(self, chains: Mapping[str, Step], slope: float, progress: Progress) -> ContractSearch:
        """The same contract on the same data, for the model with these chains besides those of the overrides.

        It has an engine of its own, which is to be closed before this one's, and where there are chains, nothing is
        measured of them before `recalibrate`. The search begins at `slope`.
        """
        other = copy(self)
        other._engine = self._engine.fork(progress)
        other.trials, other._tried, other._begin = [], {}, slope
        if every := {**self._chains, **chains}:
            other._engine.factorise(every)
        return other

    def decide(self, steps: Mapping[str, Step]) -> None:
        """These weights, by path, get these steps at every slope."""
        rules = [Rule(i, {"match": escape(path)}, {"step": step}) for i, (path, step) in enumerate(steps.items(), 1)]
        self._overrides = Overrides((*self._overrides.rules, *rules))

    def reset(self, slope: float) -> None:
        """Forgets what was tried, as the model is another now; the search begins at `slope`."""
        self.trials, self._tried, self._begin = [], {}, slope

    def recalibrate(self) -> None:
        """Measures the statistics of the model as it is now. Raises OnnxoptError where they cannot be kept."""
        assert self._parts is not None
        self._engine.calibrate(self._parts.calibration)

    def run(self) -> tuple[Trial, bool]:
        """The trial to keep, and whether it meets the contract."""
        start, most, ends = self._start(), search.MOST_TRIALS, search.ANYWHERE
        if self._recipe is not None:
            ends = GENTLEST, STRONGEST
            most = most if self._recipe.searched else 1
        elif not execute_plan.has_slope(self._engine.plan(1.0, self._overrides)):
            most = 1
        size = self.contract.size(self._engine.source.size)
        if size is not None:
            best = search.meet_size(lambda slope: self._measure(slope, None), start, size, most, ends=ends)
            return best or min(self.trials, key=lambda t: t.size), best is not None
        if self._parts is None:  # the model does not run: what the formula says has to do
            return self._measure(start, None), True
        reference = Evaluator(self.session, self._parts.validation, self.metric)
        if not self.contract.bounded:
            return self._measure(start, reference), True
        if self.contract.error is not None:
            noise = self.contract.error
            first = noise * self._together**0.5
            best = search.meet_error(lambda slope: self._measure(slope, reference), start, first, most, ends=ends)
            best = best and self._alone(best, reference, lambda trial: (trial.error or 0.0) <= noise)
            return best or min(self.trials, key=lambda t: t.error or 0.0), best is not None
        self.memorised = reference.memorised
        if self.memorised:
            self._engine.progress("allowing half the drop, for the original knows these by heart", 0.4)
        allowed = (self.contract.max_drop or 0.0) * (_BY_HEART if self.memorised else 1)
        first = allowed * self._together
        best = search.meet_drop(lambda slope: self._measure(slope, reference), start, first, most, ends)
        best = best and self._alone(best, reference, lambda trial: search.safe(trial, allowed))
        return best or min(self.trials, key=lambda t: t.drop or 0.0), best is not None

    def _alone(self, best: Trial, reference: Evaluator, is_kept: Callable[[Trial], bool]) -> Trial:
        """What comes of a recipe's weights, where it says so, and knobs going on alone from where all are together."""
        recipe, slope = self._recipe, best.slope
        if recipe is None:
            return best

        def measure(steps: int, ahead: Mapping[str, int], own: Mapping[str, int]) -> Trial | None:
            if slope * STEP ** (steps - 1) >= STRONGEST:
                return None
            self._ahead, self._own = ahead, own
            return self._measure(slope, reference)

        own: Mapping[str, int] = {}
        if recipe.layers:
            largest = sorted(self._engine.sites, key=lambda site: -site.elements)
            paths = [site.path for site in largest if self._step(site.path, slope, {})]
            best, own = search.in_turns(
                best, paths, lambda path, steps: measure(steps[path], {}, steps), is_kept, _LAYER_TURNS
            )
        knobs = list(recipe.knobs) if len(recipe.knobs) > 1 else []
        best, ahead = search.in_turns(
            best, knobs, lambda knob, steps: measure(steps[knob], steps, own), is_kept, _KNOB_TURNS
        )
        self._ahead, self._own = ahead, own
        return best

    @property
    def _together(self) -> float:
        """Share of the allowed loss that all knobs turned together may cost."""
        return _FIRST if self._recipe is not None and self._recipe.layers else 1.0

    def _step(self, path: str, strength: float, ahead: Mapping[str, int]) -> Step | None:
        """What the recipe has for a weight; None where it leaves it as it is."""
        assert self._recipe is not None
        return execute_plan.steps(self._engine.sites, strength, self._recipe.at(strength, ahead)).get(path)

    def more_careful(self) -> Trial | None:
        """What meets the contract with half its drop, from now on; None where no drop is bounded, or nothing does."""
        if not self.contract.max_drop:
            return None
        self.contract = replace(self.contract, max_drop=self.contract.max_drop / 2)
        trial, met = self.run()
        return trial if met else None

    def difference(self, model: Path, original: Path) -> float:
        """Noise over signal of a model's outputs on the validation part, against another's."""
        assert self._parts is not None
        reference = Evaluator(quiet_session(str(original)), self._parts.validation)
        return reference.compare(quiet_session(str(model))).error

    def error(self, trial: Trial) -> float:
        """Noise over signal of a trial's outputs on the validation part, where that was not asked for."""
        assert self._parts is not None
        reference = Evaluator(self.session, self._parts.validation)
        found = self._engine.try_slope(trial.slope, self._rules(trial.slope), reference, lambda share: None)
        return found.error or 0.0

    @property
    def engine(self) -> Workspace:
        """What builds the files."""
        return self._engine

    @property
    def chained(self) -> bool:
        """Whether the overrides make chains of layers."""
        return bool(self._chains)

    @property
    def calibration(self) -> Data | None:
        """What the statistics are measured on; None where the model does not run."""
        return self._parts.calibration if self._parts else None

    @property
    def undecided(self) -> frozenset[str]:
        """Paths of the weights of which the overrides say nothing, and that are no chain's."""
        decided = self._overrides.decided(self._engine.sites)
        return frozenset(
            path for path, one in decided.items() if one == Override() and path.rpartition("@")[0] not in self._chains
        )

    @property
    def recipe(self) -> str:
        """Its name; empty where there is none."""
        return "" if self._recipe is None else self._recipe.name

    def plan(self, trial: Trial) -> Plan:
        """The decisions of a trial."""
        return self._engine.plan(trial.slope, self._rules(trial.slope))

    def _start(self) -> float:
        """The slope, or the strength, to begin with."""
        if self._recipe is not None:
            return MIDDLE
        if self._begin is not None:
            return self._begin
        weighed = execute_plan.candidates(self._engine.graph, self._engine.sites, self._engine.statistics)
        size = self.contract.size(self._engine.source.size)
        if size is not None:
            return search.slope_where(lambda slope: search.expected_bits(weighed, slope) / 8, size)
        noise = self.contract.error or DEFAULT_ERROR
        return search.slope_where(lambda slope: search.expected_error(weighed, slope), noise)

    def _rules(self, slope: float) -> Overrides:
        """What is decided for weights, the user's own rules last."""
        if self._recipe is None:
            return self._overrides
        rules = list(self._recipe.at(slope, self._ahead).rules)
        for path, steps in self._own.items():
            if steps:
                further = {"step": self._step(path, slope * STEP**steps, self._ahead)}
                rules.append(Rule(len(rules) + 1, {"match": escape(path)}, further))
        return Overrides((*rules, *self._overrides.rules))

    def nearest(self, trial: Trial) -> str:
        """What to say where the contract was missed."""
        found = [f"{trial.size} bytes"]
        found += [] if trial.error is None else [f"noise over signal {trial.error:.3g}"]
        found += [] if trial.drop is None else [f"a drop of {trial.drop:.3g}"]
        return (f"{self._engine.source.path}: {self.contract} cannot be met: the nearest of {len(self.trials)} tries "
                f"has {', '.join(found)}; nothing was written (--allow-miss writes it)")  # fmt: skip

    @property
    def session(self) -> onnxruntime.InferenceSession:
        """The original. It is large, so not there before something is compared with it."""
        self._session = self._session or quiet_session(str(self._engine.source.path))
        return self._session

    @property
    def check(self) -> Data | None:
        """What the finished file is measured on, once; None where the model does not run."""
        return self._parts.check if self._parts else None

    def _measure(self, slope: float, reference: Evaluator | None) -> Trial:
        done, knob = 0.9 - 0.5 * 0.8 ** len(self.trials), "slope" if self._recipe is None else "strength"
        what = f"try {len(self.trials) + 1}, {knob} {slope:.2g}: {self._why()}"

        def advance(share: float) -> None:
            self._engine.progress(what, done + share * 0.1 * 0.8 ** len(self.trials))

        rules = self._rules(slope)
        plan = self._engine.plan(slope, rules).to_json()
        if plan not in self._tried:  # settings are fewer than strengths
            self._tried[plan] = self._engine.try_slope(slope, rules, reference, advance)
            self.trials.append(self._tried[plan])
        return replace(self._tried[plan], slope=slope)

    def _why(self) -> str:
        """Why something is tried."""
        if not self.trials or not self.contract.bounded:
            return "what the statistics promise" if self._recipe is None and self._begin is None else "to begin with"
        last, allowed = self.trials[-1], self.contract
        if last.drop is not None and allowed.max_drop is not None:
            return f"the last one dropped by {last.drop:.3g} +- {last.uncertainty:.2g}, {allowed.max_drop:g} is allowed"
        if last.error is not None and allowed.error is not None:
            return f"the last one left noise {last.error:.3g}, {allowed.error:g} is allowed"
        return f"the last one has {last.size} bytes, {allowed.size(self._engine.source.size)} are allowed"

    def _open(self, session: onnxruntime.InferenceSession, data: Spec | None, evaluation: Spec | None) -> _Parts:
        whole = synthetic(session, input_scale(self._engine.source.model), _MADE_UP) if data is None else (
            open_data(data, session))  # fmt: skip
        calibration, held_back = split(whole, _HELD_BACK)
        enough = _VALIDATION if self.metric else _NOISE
        if evaluation is not None:
            validation, check = held_back, open_data(evaluation, session)
        elif self.metric:
            validation, check = split(held_back, 0.5)
        else:
            validation = check = held_back.take(enough)
        return _Parts(calibration.take(_CALIBRATION), validation.take(enough), check)
