"""Plan, apply, optimize: a model in, a small model out."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnxruntime

from onnxopt import search
from onnxopt.contract import DEFAULT_ERROR, Contract
from onnxopt.data import Data, Spec, input_scale, open_data, quiet_session, split, synthetic
from onnxopt.engine import Built, Engine, Progress
from onnxopt.errors import Missed, OnnxoptError, first_line
from onnxopt.evaluate import Comparison, Reference
from onnxopt.events import Event
from onnxopt.graph import Source, is_compressed, read
from onnxopt.manager import candidates
from onnxopt.metrics import Metric
from onnxopt.overrides import Overrides
from onnxopt.plan import Plan
from onnxopt.search import Trial

MAX_RAM = 2**29
"""Bytes that statistics may take at a time, where the user does not say."""
_HELD_BACK = 0.25
_CALIBRATION, _VALIDATION, _NOISE = 1024, 4096, 256
"""Samples that are enough: to calibrate on, to measure a metric on, to measure noise on."""
_BY_HEART = 0.5
"""Share of an allowed drop that may show on images that the model was trained on until it made no mistakes: what it
knows by heart it keeps longer. On CIFAR-10, ResNet-32 and -56 lose 1.3 to 2 times as much on images new to them."""
_MADE_UP = 320
"""Samples that are made up where there is no data."""


@dataclass(frozen=True, slots=True)
class Check:
    """What was measured on the file that was written, through the loader."""

    data: str
    """Name of the data."""
    found: Comparison


@dataclass(frozen=True, slots=True)
class Result:
    """What `optimize` did."""

    source: Path
    output: Path
    bytes_before: int
    """Of the source file with its external data."""
    bytes_fp16: int
    """What the source would be with every float32 weight in float16."""
    bytes_after: int
    events: tuple[Event, ...]
    cleaned: dict[str, int]
    """Nodes that each clean-up removed or changed."""
    contract: str
    """What was asked for; empty where nothing was (a plan applied, lossless)."""
    met: bool
    calibrated: str
    """Name of the data that the weights were calibrated on; empty where on none."""
    not_calibrated: str
    """Why there was no calibration; empty where there was, or none was asked for."""
    trials: tuple[Trial, ...]
    """The search, in order."""
    check: Check | None
    """None where `not_checked` says why."""
    not_checked: str
    unchanged: bool
    """Compressed it would be no smaller: the output is a copy of the source."""
    seconds: float
    peak_memory: int | None
    """Bytes of RAM that this process has held at most so far; None where the system does not say."""
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Parts:
    """What data is for. The parts have no batch in common."""

    calibration: Data
    validation: Data
    """Measured while searching."""
    check: Data
    """Measured once, at the end."""


def plan(
    model: str | os.PathLike[str],
    contract: Contract | None = None,
    data: Spec | None = None,
    lossless: bool = False,
    overrides: Overrides | None = None,
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
) -> Plan:
    """The decisions for a model, without writing a file. Arguments and errors as for `optimize`."""
    contract = contract or Contract()
    contract.check(lossless)
    with _engine(_plain(model), lossless, "balanced", max_ram, progress) as engine:
        if lossless:
            return Plan(engine.source.sha256)
        found = _Search(engine, contract, data, None, overrides or Overrides())
        best, met = found.run()
        if not met:
            raise Missed(found.nearest(best))
        return engine.plan(best.slope, found.overrides)


def optimize(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str],
    contract: Contract | None = None,
    data: Spec | None = None,
    evaluation: Spec | None = None,
    lossless: bool = False,
    overrides: Overrides | None = None,
    allow_miss: bool = False,
    prefer: str = "balanced",
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
) -> Result:
    """Compresses the model at `model` into the file `output`: the smallest file that the contract allows.

    Arguments:
        model: path of an ONNX file.
        output: path of the file to write; written whole or not at all.
        contract: what to meet; without one, a bound on the noise in the outputs.
        data: what the model is used on, three quarters of it to calibrate on and the rest to search with; without it,
            made-up inputs.
        evaluation: data that the result is measured on, once; without it, a part of `data` that nothing else sees.
        lossless: keep every weight bit for bit instead; there is no contract then.
        overrides: decisions for single weights.
        allow_miss: write what comes nearest where the contract cannot be met.
        prefer: "smallest", "balanced" or "fastest" to decode.
        max_ram: bytes that statistics may take at a time.
        progress: told what is being done.

    Raises Missed where the contract cannot be met, OnnxoptError where it contradicts itself, the model cannot be read
    or the result cannot be written or run.
    """
    contract = contract or Contract()
    contract.check(lossless)
    started, source = time.monotonic(), _plain(model)
    with _engine(source, lossless, prefer, max_ram, progress) as engine:
        if lossless:
            return _finish(engine, engine.build(Plan(source.sha256)), Path(output), started, _Outcome.of_random(engine))
        found = _Search(engine, contract, data, evaluation, overrides or Overrides())
        best, met = found.run()
        if not met and not allow_miss:
            raise Missed(found.nearest(best))
        built = engine.build(engine.plan(best.slope, found.overrides))
        try:
            return _finish(engine, built, Path(output), started, found.outcome(met, allow_miss))
        except Missed:
            if found.contract.max_drop != 0:
                raise
    with _engine(source, True, prefer, max_ram, progress) as engine:  # lossless, which keeps any metric
        return _finish(engine, engine.build(Plan(source.sha256)), Path(output), started, found.outcome(True, False))


def apply(
    model: str | os.PathLike[str],
    plan: Plan,
    output: str | os.PathLike[str],
    data: Spec | None = None,
    prefer: str = "balanced",
    max_ram: int = MAX_RAM,
    progress: Progress | None = None,
) -> Result:
    """Carries out a plan that `plan` made, perhaps edited by hand. Arguments and errors as for `optimize`.

    A plan without steps is lossless. One that was made on data needs the same data.
    """
    started, source = time.monotonic(), _plain(model)
    if plan.model_sha256 != source.sha256:
        raise OnnxoptError(
            f"{source.path}: the plan is for another model (sha256 {plan.model_sha256[:12]}..., "
            f"this one has {source.sha256[:12]}...); make a new one with `onnxopt plan`"
        )
    with _engine(source, not plan.steps, prefer, max_ram, progress) as engine:
        outcome = _Outcome.of_random(engine)
        if plan.data:
            found = _Search(engine, Contract(), data, None, Overrides())
            if engine.data != plan.data:
                raise OnnxoptError(
                    f"{source.path}: the plan was made on other data than {found.calibrated}; give the same with --data"
                )
            outcome = replace(found.outcome(True, True), contract="")
        return _finish(engine, engine.build(plan), Path(output), started, outcome)


@contextmanager
def _engine(source: Source, lossless: bool, prefer: str, max_ram: int, progress: Progress | None) -> Iterator[Engine]:
    """What it measured is forgotten once all went well, and kept for another try where it did not."""
    engine = Engine(source, lossless, prefer, max_ram, progress or (lambda what, share: None))
    try:
        yield engine
    except BaseException:
        engine.close(keep=True)
        raise
    engine.close(keep=False)


def _plain(model: str | os.PathLike[str]) -> Source:
    source = read(model)
    if is_compressed(source.model):
        raise OnnxoptError(f"{source.path}: is compressed already; `onnxopt decompress` gives the plain model back")
    return source


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What the result says of the search, and how the file is to be checked."""

    contract: str = ""
    met: bool = True
    calibrated: str = ""
    not_calibrated: str = ""
    trials: tuple[Trial, ...] = ()
    session: onnxruntime.InferenceSession | None = None
    """The original; None where it does not run."""
    check: Data | None = None
    metric: Metric | None = None
    most_drop: float | None = None
    """A larger one misses the contract..."""
    allow_miss: bool = False
    """...and must not be written without this."""
    not_checked: str = ""

    @classmethod
    def of_random(cls, engine: Engine) -> _Outcome:
        """Without a search: checked on a few made-up inputs."""
        try:
            session = quiet_session(str(engine.source.path))
            return cls(session=session, check=synthetic(session, input_scale(engine.source.model), 4))
        except Exception as error:  # our CannotRun, or whatever the runtime says about the user's own model
            return cls(not_checked=first_line(error))


class _Search:
    """Opens the data, calibrates, and finds the slope that meets a contract."""

    def __init__(
        self, engine: Engine, contract: Contract, data: Spec | None, evaluation: Spec | None, overrides: Overrides
    ) -> None:
        self.contract = contract.settled(made_up=data is None)
        self._noise = self.contract.error or DEFAULT_ERROR
        self.overrides = overrides
        self._engine, self._trials = engine, list[Trial]()
        self._reference: Reference | None = None
        self._parts: _Parts | None = None
        self._session: onnxruntime.InferenceSession | None = None
        self._metric = contract.measure()
        self.calibrated, self.not_calibrated = "", ""
        unmatched = overrides.unmatched((site.path, site.op) for site in engine.sites)
        if unmatched:
            raise OnnxoptError(f"{unmatched[0]}: matches no weight; `onnxopt plan` lists this model's weights")
        try:
            self._session = quiet_session(str(engine.source.path))
            self._parts = self._open(self._session, data, evaluation)
            self._session = None  # it is large, and not needed until there is something to compare
            engine.calibrate(self._parts.calibration)
            self.calibrated = self._parts.calibration.name
        except OSError as error:
            raise OnnxoptError(f"{engine.source.path}: the statistics cannot be kept: {error}; XDG_CACHE_HOME names "
                               "another place for them") from error  # fmt: skip
        except Exception as error:
            if data is not None or evaluation is not None or self._metric or isinstance(error, MemoryError):
                if isinstance(error, OnnxoptError | MemoryError):
                    raise
                raise OnnxoptError(f"{engine.source.path}: does not run: {first_line(error)}") from error
            self.not_calibrated, self._parts, self._session = first_line(error), None, None

    def run(self) -> tuple[Trial, bool]:
        """The trial to keep, and whether it meets the contract."""
        weighed = candidates(self._engine.graph, self._engine.sites, self._engine.statistics)
        start = search.slope_where(lambda slope: search.expected_error(weighed, slope), self._noise)
        size = self.contract.size(self._engine.source.size)
        if size is not None:
            start = search.slope_where(lambda slope: search.expected_bits(weighed, slope) / 8, size)
            best = search.meet_size(self._measure, start, size)
            return best or min(self._trials, key=lambda t: t.size), best is not None
        if self._parts is None:  # the model does not run: what the formula says has to do
            return self._measure(start), True
        self._reference = Reference(self._running, self._parts.validation, self._metric)
        if self.contract.max_drop is None:
            best = search.meet_error(self._measure, start, self._noise)
            return best or min(self._trials, key=lambda t: t.error or 0.0), best is not None
        allowed = self.contract.max_drop * (_BY_HEART if self._reference.known_by_heart else 1)
        best = search.meet_drop(self._measure, start, allowed)
        return best or min(self._trials, key=lambda t: t.drop or 0.0), best is not None

    def nearest(self, trial: Trial) -> str:
        """What to say where the contract was missed."""
        found = [f"{trial.size} bytes"]
        found += [] if trial.error is None else [f"noise over signal {trial.error:.3g}"]
        found += [] if trial.drop is None else [f"a drop of {trial.drop:.3g}"]
        return (f"{self._engine.source.path}: {self.contract} cannot be met: the nearest of {len(self._trials)} tries "
                f"has {', '.join(found)}; nothing was written (--allow-miss writes it)")  # fmt: skip

    def outcome(self, met: bool, allow_miss: bool) -> _Outcome:
        """For the result."""
        return _Outcome(
            str(self.contract), met, self.calibrated, self.not_calibrated, tuple(self._trials),
            self._running if self._parts else None,
            self._parts.check if self._parts else None, self._metric,
            self.contract.max_drop, allow_miss, self.not_calibrated,
        )  # fmt: skip

    @property
    def _running(self) -> onnxruntime.InferenceSession:
        if self._parts is None:
            raise OnnxoptError(f"{self._engine.source.path}: does not run: {self.not_calibrated}")
        self._session = self._session or quiet_session(str(self._engine.source.path))
        return self._session

    def _measure(self, slope: float) -> Trial:
        share = 0.9 - 0.5 * 0.8 ** len(self._trials)
        self._engine.progress(f"trying slope {slope:.2g}", share)
        trial = self._engine.try_slope(slope, self.overrides, self._reference)
        self._trials.append(trial)
        return trial

    def _open(self, session: onnxruntime.InferenceSession, data: Spec | None, evaluation: Spec | None) -> _Parts:
        whole = synthetic(session, input_scale(self._engine.source.model), _MADE_UP) if data is None else (
            open_data(data, session))  # fmt: skip
        calibration, held_back = split(whole, _HELD_BACK)
        enough = _VALIDATION if self._metric else _NOISE
        if evaluation is not None:
            validation, check = held_back, open_data(evaluation, session)
        elif self._metric:
            validation, check = split(held_back, 0.5)
        else:
            validation = check = held_back.take(enough)
        return _Parts(calibration.take(_CALIBRATION), validation.take(enough), check)


def _finish(engine: Engine, built: Built, output: Path, started: float, outcome: _Outcome) -> Result:
    """Writes the file and checks it before it takes its place."""
    engine.progress("checking", 0.95)
    checked: Check | None = None
    met = outcome.met

    def check(path: Path) -> None:
        nonlocal checked, met
        session = engine.load(path)
        if outcome.session is None or outcome.check is None:
            return
        found = Reference(outcome.session, outcome.check, outcome.metric).compare(session)
        checked = Check(outcome.check.name, found)
        met = outcome.met and (outcome.most_drop is None or search.kept(found.drop, outcome.most_drop))
        if not met and not outcome.allow_miss:
            raise Missed(
                f"{engine.source.path}: {outcome.contract} is missed on {outcome.check.name}: it drops by "
                f"{found.drop:.3g}, from {found.before:.4g} to {found.after:.4g}, at {path.stat().st_size} bytes; "
                "nothing was written (--allow-miss writes it; a smaller --max-drop or more --data is more careful)"
            )

    size, unchanged = engine.write(built, output, check)
    return Result(
        source=engine.source.path,
        output=output,
        bytes_before=engine.source.size,
        bytes_fp16=engine.source.size - 2 * engine.source.float_elements,
        bytes_after=size,
        events=() if unchanged else tuple(engine.events(built, size)),
        cleaned=engine.cleaned,
        contract=outcome.contract,
        met=met,
        calibrated=outcome.calibrated,
        not_calibrated=outcome.not_calibrated,
        trials=outcome.trials,
        check=checked,
        not_checked=outcome.not_checked,
        unchanged=unchanged,
        seconds=time.monotonic() - started,
        peak_memory=_peak_memory(),
        plan=built.plan,
    )


def _peak_memory() -> int | None:
    try:
        import resource  # noqa: PLC0415 (not on Windows)
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
