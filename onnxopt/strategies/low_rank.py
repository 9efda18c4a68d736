"""The search again, with chains of layers where they pay: in bytes, in milliseconds, or in both.

What chains may save is estimated layer by layer (`alternatives`, `choice`). What they do save is measured: in files
that meet the same contract, and in the time that the whole model takes. Where it is nothing, the model stays as it was.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path

import onnx

from onnxopt.build.workspace import LARGEST_INLINE, Workspace
from onnxopt.calibration.chunks import one_sample
from onnxopt.data import Array
from onnxopt.measure.benchmark import SpeedRatio, milliseconds, time_ratio
from onnxopt.results.result import Factoring
from onnxopt.search.allocation import Allocator, Goal, LayerDecision
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.slope import Trial
from onnxopt.spec.plan import Step
from onnxopt.spec.progress import Progress
from onnxopt.strategies.layer_candidates import LayerCandidates

_LOUDER, _CHOICES = 1.25, 4
"""Times the noise that was expected of chains, or as many times less, where others are chosen by what was measured; and
how often chains are chosen."""
_LESS_TRUST = 0.25
"""In chains, where the contract could not be met with those that were chosen."""
_SECONDS = 60.0
"""That two models are compared for at most; some 30 do where nothing else runs on the machine."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be written."""

    tuner: ContractSearch
    best: Trial
    factoring: Factoring

    def attempts(self) -> Iterator[Found]:
        """What to write with chains, if anything; then with half the drop, for where the finished file misses it."""
        if not self.factoring.kept:
            return
        yield self
        careful = self.tuner.more_careful()
        if careful and (self.factoring.goal == Goal.SPEED or careful.size < self.factoring.plain.size):
            yield replace(self, best=careful, factoring=replace(self.factoring, chained=careful))


@contextmanager
def factored(tuner: ContractSearch, best: Trial, goal: Goal, progress: Progress) -> Iterator[Found]:
    """What is to be written where chains may be made for this goal; it is there until the context ends.

    Arguments:
        tuner: has searched without chains.
        best: what it kept, which meets the contract.
        progress: told what is being done, and the share of it.

    Raises OnnxoptError where the statistics cannot be kept, or a model with chains does not run.
    """
    search = _Search(tuner, best, goal, progress)
    while chains := search.chains:
        with _again(tuner, chains, search.slope, progress) as other:
            found = search.tried(other)
            if found is not None:
                yield found
                return
    yield search.without


class _Search:
    """The chains that are left to try, and what was found out about the others."""

    def __init__(self, tuner: ContractSearch, best: Trial, goal: Goal, progress: Progress) -> None:
        self._tuner, self._best, self._goal, self._progress = tuner, best, goal, progress
        self._time: SpeedRatio | None = None
        self._chained: Trial | None = None
        self._reason = "the model does not run, so nothing is known of its layers"
        self._considered: dict[str, LayerDecision] = {}
        self._trust, self._choices = 1.0, 0
        self.chains: dict[str, Step] = {}
        self.slope = best.slope
        if tuner.calibration is not None:
            self._sample: Mapping[str, Array] = one_sample(tuner.engine.graph.model, tuner.calibration).feeds
            self._chooser = self._open()
            self._choose()

    def _open(self) -> Allocator:
        engine, noise, undecided = self._tuner.engine, self._best.error, self._tuner.undecided
        most = inf if noise is None else noise**2
        clock = milliseconds if self._goal.timed else None
        alternatives = LayerCandidates(engine.graph, engine.statistics, self._sample, most, clock)
        layers = []
        for i, site in enumerate(engine.sites):
            self._progress(f"chains for {site.path}", 0.4 * i / len(engine.sites))
            layers.append(alternatives.of(site, site.path in undecided))
        return Allocator(layers, self._best.slope, None if noise is None else noise**2)

    def _choose(self) -> None:
        choice = self._chooser.choose(self._goal, self._trust)
        self._considered = {one.path: one for one in choice.considered}
        self.chains = {path: Step.parse(step) for path, step in choice.chains.items()}
        self.slope, self._reason = choice.slope, "no chain pays"
        self._choices += 1
        self._unheard = self._choices < _CHOICES

    def tried(self, other: ContractSearch) -> Found | None:
        """What to write where these chains pay; else others or fewer are left to try, or none."""
        if self._unheard and self._chosen_anew(other):
            return None
        if self._goal.timed:
            self._time = self._compared(other.engine)
            if not (self._time.significant and self._time.ratio < 1):
                self._give_up_half(self._time)
                return None
        other.recalibrate()
        self._chained, met = other.run()
        if not met:
            self._reason = "with chains the contract cannot be met"
            if self._trust == 1:
                self._trust = _LESS_TRUST
                self._choose()
            else:
                self._give_up(self.chains, self._reason)
            return None
        grown = self._coded(other, self._chained)
        if self._goal.weighed and grown:
            for path in grown:
                one = self._considered[path]
                self._give_up([path], f"coded it has {one.bytes_after:.0f} bytes, against {one.bytes_before:.0f}")
            return None
        self._reason = self._refused(other, self._chained)
        if self._reason:
            self._give_up(self.chains, self._reason)
            return None
        return Found(other, self._chained, self._factoring(kept=True))

    @property
    def without(self) -> Found:
        """The model as it was."""
        return Found(self._tuner, self._best, self._factoring(kept=False))

    def _factoring(self, kept: bool) -> Factoring:
        return Factoring(
            str(self._goal), kept, "" if kept else self._reason, self._best, self._chained, self._time,
            tuple(self._considered.values()),
        )  # fmt: skip

    def _chosen_anew(self, other: ContractSearch) -> bool:
        """Listens to the noise of the model with chains, and chooses others where that is not what was expected."""
        self._unheard = False
        before, expected = dict(self.chains), sum((self._considered[path].noise or 0.0) ** 2 for path in self.chains)
        with self._saved(other.engine) as (with_chains, without):
            times = self._tuner.difference(with_chains, without) ** 2 / expected if expected else 1.0
        if 1 / _LOUDER < times < _LOUDER:
            return False
        self._chooser.observed_noise({path: str(step) for path, step in before.items()}, times)
        self._choose()
        anew = self.chains != before
        self._unheard &= anew
        return anew

    def _compared(self, other: Workspace) -> SpeedRatio:
        """Time of the model with chains against the one without, neither of them quantized."""

        def advance(share: float) -> None:
            self._progress("running in turns, with chains and without", 0.4 + 0.1 * share)

        with self._saved(other) as (with_chains, without):
            found = time_ratio(with_chains, without, [dict(self._sample)], _SECONDS, advance)
        return replace(found, path="with chains", against="without")

    @contextmanager
    def _saved(self, other: Workspace) -> Iterator[tuple[Path, Path]]:
        """Files of the model with chains and without."""
        with tempfile.TemporaryDirectory() as folder:
            paths = Path(folder) / "with.onnx", Path(folder) / "without.onnx"
            for engine, path in zip((other, self._tuner.engine), paths, strict=True):
                _save(engine.graph.model, path)
            yield paths

    def _give_up_half(self, time: SpeedRatio) -> None:
        """Those of the chains that saved the least share of their layers' time."""
        saved = sorted(self.chains, key=lambda path: self._ratio(self._considered[path]))
        self._reason = f"the model takes {time.ratio:.3f}x the time with chains ({time.low:.3f} to {time.high:.3f})"
        self._give_up(saved[len(saved) // 2 :], self._reason)

    def _ratio(self, one: LayerDecision) -> float:
        return (one.ms_after or inf) / (one.ms_before or inf)

    def _give_up(self, paths: Iterable[str], reason: str) -> None:
        for path in list(paths):
            del self.chains[path]
            self._considered[path] = replace(self._considered[path], accepted=False, reason=reason)

    def _coded(self, other: ContractSearch, trial: Trial) -> list[str]:
        """Notes what the chains' layers have in files with and without them, and returns those that have grown."""
        before = self._tuner.engine.coded(self._tuner.plan(self._best))
        after = other.engine.coded(other.plan(trial))
        for path in self.chains:
            parts = sum(size for part, size in after.items() if part.rpartition("@")[0] == path)
            self._considered[path] = replace(self._considered[path], bytes_before=before[path], bytes_after=parts)
        return [path for path in self.chains if self._considered[path].bytes_after >= before[path]]

    def _refused(self, other: ContractSearch, trial: Trial) -> str:
        """Why a file with chains is none to write; empty where it is."""
        source = self._tuner.engine.source.size
        if trial.size >= source:
            return f"with chains the file would have {trial.size} bytes, and the source has {source}"
        if not self._goal.weighed:
            return ""
        if self._tuner.contract.size(source) is None:
            more = f"with chains the file would have {trial.size} bytes, without it has {self._best.size}"
            return more if trial.size >= self._best.size else ""
        made, before = other.error(trial), self._tuner.error(self._best)  # the size is given: noise is what is saved
        more = f"with chains the outputs' noise over signal would be {made:.3g}, without it is {before:.3g}"
        return more if made >= before else ""


@contextmanager
def _again(
    tuner: ContractSearch, chains: Mapping[str, Step], slope: float, progress: Progress
) -> Iterator[ContractSearch]:
    """With an engine of its own, which is closed; what it measured stays for another try where something went wrong."""
    other = tuner.fork(chains, slope, lambda what, share: progress(f"with chains: {what}", 0.5 + share / 2))
    try:
        yield other
    except BaseException:
        other.engine.close(keep=True)
        raise
    other.engine.close(keep=False)


def _save(model: onnx.ModelProto, path: Path) -> None:
    if model.ByteSize() < LARGEST_INLINE:
        onnx.save(model, path)
        return
    copy = onnx.ModelProto()
    copy.CopyFrom(model)  # as what is saved outside is taken out of the model
    onnx.save(copy, path, save_as_external_data=True)
