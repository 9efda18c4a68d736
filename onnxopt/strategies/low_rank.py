"""Low-rank factorisation of the layers where it saves bytes, time, or both.

Savings of factor chains are estimated layer by layer (`layer_candidates`, `search.allocation`). The actual savings are
then measured, in files that meet the same contract and in the time of the whole model. If nothing is saved, no layer is
factorised.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from functools import partial
from math import inf
from pathlib import Path

from onnxopt.build.observing import difference
from onnxopt.graph import Site
from onnxopt.measure.clock import Clock
from onnxopt.pool import Shared
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.search.allocation import Allocator, Layer, LayerDecision
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.strategies.base import Outcome, Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline
from onnxopt.strategies.layer_candidates import LayerCandidates

_TOLERANCE, _CHOICES = 1.25, 4
"""Tolerated factor between measured and expected noise of factor chains, in either direction, before they are chosen
again with the measured noise; and the largest number of choices."""
_LESS_TRUST = 0.25
"""Trust in factor chains once the chosen ones could not meet the contract."""
_GROWN = "coded it has"


class LowRank(Strategy):
    """Proposes the factor chains that pay by formula, then revises the choice from measurements of the last one."""

    name = "low_rank"
    title = "Low-rank factorisation"
    phrase = "with factor chains"
    order = 20
    goals = frozenset(Goal)
    inline_only = False
    columns = (
        Column("path", "Layer", "The layer's weight"),
        Column("step", "Step", "The factorisation that was applied, or the one that came closest to paying off"),
        Column("ms", "ms", "Milliseconds of the layer alone on one sample, before and after"),
        Column("bytes", "Bytes", "Coded bytes, before and after; estimates for rejected layers"),
        Column("weights", "Weights", "Elements, before and after"),
        Column("macs", "MACs", "Multiply-accumulates of a sample, before and after"),
        Column("noise", "Noise", "Noise over signal in the model's outputs, before quantization"),
    )

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """What the strategy tries to save."""
        saved = {
            Goal.SIZE: "bytes",
            Goal.SPEED: "time on this machine",
            Goal.BALANCED: "bytes and time on this machine",
        }
        goal = base.request.wanted
        return f"layers become factor chains where that saves {saved[goal]}." if goal else ""

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes one set of factor chains at a time."""
        before = base.work.measured_forms
        choice, time = _Choice(base, clock), None
        while choice.chains:
            choice.measure_noise()
            if not choice.chains:
                break
            variant = Variant(dict(choice.chains), choice.rows())
            lost = yield Proposal((variant,), choice.slope, choice.goal.timed)
            time = lost.time or time
            base.work.forget_since(before)
            choice.learn(lost)
        return Refused(choice.reason, choice.rows(), time)

    def judge(self, base: Baseline, outcome: Outcome) -> Outcome:
        """Factor chains that save bytes by formula must save them in the file, too. Without a bound on the size, the
        file must get smaller than without factor chains; with such a bound, its outputs must have less noise."""
        assert outcome.searched is not None
        goal, kept, found = base.request.wanted, base.kept, outcome.searched
        before = base.work.build(kept.plan).packed.sizes
        after = outcome.work.build(found.plan).packed.sizes
        rows = list[LayerOutcome]()
        for row in outcome.variant.layers:
            if row["path"] in outcome.variant.steps:
                size = sum(count for part, count in after.items() if part.rpartition("@")[0] == row["path"])
                rows.append({**row, "bytes_before": before[row["path"]], "bytes_after": size})
            else:
                rows.append(row)
        outcome = replace(outcome, variant=replace(outcome.variant, layers=tuple(rows)))
        if goal is None or not goal.weighed:
            return outcome
        if any(_grown(row) for row in rows if row["path"] in outcome.variant.steps):
            return replace(outcome, reason=f"{_GROWN} more bytes than the layers")
        if base.contract.size(base.work.bytes_before) is None:
            more = f"{self.phrase} the file would have {found.trial.size} bytes, without it has {kept.trial.size}"
            return replace(outcome, reason=more) if found.trial.size >= kept.trial.size else outcome
        _, compared = outcome.work.try_plan(found.plan, base.original.noise)  # at a fixed size, noise has to fall
        made = inf if compared is None or compared.error is None else compared.error
        more = f"{self.phrase} the outputs' noise over signal would be {made:.3g}, without it is {base.noise:.3g}"
        return replace(outcome, reason=more) if made >= base.noise else outcome


def _candidates(every: Shared[LayerCandidates], asked: tuple[Site, bool]) -> Layer:
    return every.value.of(*asked)


def _grown(row: LayerOutcome) -> bool:
    return bool(row["bytes_after"] >= row["bytes_before"])


class _Choice:
    """The factor chains left to try, and what was learned about the others."""

    def __init__(self, base: Baseline, clock: Clock) -> None:
        goal = base.request.wanted
        assert goal is not None
        self._base, self.goal = base, goal
        self._decisions: dict[str, LayerDecision] = {}
        self._trust, self._choices, self._unmeasured = 1.0, 0, False
        self.chains: dict[str, Step] = {}
        self.slope, self.reason = base.kept.trial.slope, ""
        self._allocator = self._allocated(clock)
        self._choose()

    def _allocated(self, clock: Clock) -> Allocator:
        """An allocator over every layer and its candidate factor chains."""
        work, trial = self._base.work, self._base.kept.trial
        most = inf if trial.error is None else trial.error**2
        timed, pool = clock if self.goal.timed else None, work.request.pool
        every = LayerCandidates(pool.share(work.graph), work.statistics, self._base.sample, most, timed)
        free = self._base.undecided
        asked = [(site, site.path in free) for site in work.sites]
        # what is timed runs here, one after another
        found = (every.of(*one) for one in asked) if timed else pool.map(partial(_candidates, pool.share(every)), asked)
        layers = []
        for i, (site, layer) in enumerate(zip(work.sites, found, strict=True)):
            work.progress(f"factor chains for {site.path}", 0.4 * i / len(work.sites))
            layers.append(layer)
        return Allocator(layers, trial.slope, None if trial.error is None else trial.error**2)

    def _choose(self) -> None:
        choice = self._allocator.choose(self.goal, self._trust)
        self._decisions = {one.path: one for one in choice.considered}
        self.chains = {path: Step.parse(step) for path, step in choice.chains.items()}
        self.slope, self.reason = choice.slope, "no factor chain pays"
        self._choices += 1
        self._unmeasured = self._choices < _CHOICES

    def measure_noise(self) -> None:
        """Chooses again while the measured noise of the chosen factor chains differs from the expected noise."""
        while self.chains and self._unmeasured:
            self._unmeasured = False
            before, base = dict(self.chains), self._base
            expected = sum((self._decisions[path].noise or 0.0) ** 2 for path in before)
            with tempfile.TemporaryDirectory() as folder:
                paths = Path(folder) / "with.onnx", Path(folder) / "without.onnx"
                base.work.with_steps(before).write_plain(paths[0])
                base.work.write_plain(paths[1])
                times = difference(*paths, base.original.parts.validation) ** 2 / expected if expected else 1.0
            if 1 / _TOLERANCE < times < _TOLERANCE:
                return
            self._allocator.observed_noise({path: str(step) for path, step in before.items()}, times)
            self._choose()
            self._unmeasured &= self.chains != before

    def learn(self, lost: Outcome) -> None:
        """Drops factor chains, given the refused outcome."""
        self.reason = lost.reason
        if lost.searched is None:  # the race was lost: drop the half that saves the smallest share of time
            least_saved_last = sorted(self.chains, key=lambda path: _ratio(self._decisions[path]))
            self._give_up(least_saved_last[len(least_saved_last) // 2 :], lost.reason)
        elif not lost.searched.met and self._trust == 1:
            self._trust = _LESS_TRUST
            self._choose()
        elif lost.reason.startswith(_GROWN):
            for row in (row for row in lost.variant.layers if row["path"] in self.chains and _grown(row)):
                sizes = {name: row[name] for name in ("bytes_before", "bytes_after")}
                self._decisions[row["path"]] = replace(self._decisions[row["path"]], **sizes)
                self._give_up([row["path"]], f"{_GROWN} {row['bytes_after']:.0f} bytes, against "
                                             f"{row['bytes_before']:.0f}")  # fmt: skip
        else:
            self._give_up(self.chains, lost.reason)

    def _give_up(self, paths: Iterable[str], reason: str) -> None:
        for path in list(paths):
            del self.chains[path]
            self._decisions[path] = replace(self._decisions[path], accepted=False, reason=reason)

    def rows(self) -> tuple[LayerOutcome, ...]:
        """Rows of all layers that were considered for factorisation, in graph order."""
        return tuple(
            {**asdict(one), "bytes_before": round(one.bytes_before), "bytes_after": round(one.bytes_after)}
            for one in self._decisions.values()
        )  # fmt: skip


def _ratio(one: LayerDecision) -> float:
    return (one.ms_after or inf) / (one.ms_before or inf)
