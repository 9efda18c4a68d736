"""Dynamic INT8: matrix products multiply int8 weights by inputs that are rounded by their own range in each run.

Transformers have few channels with large values, which take the range of all others. Where it pays, channels are
divided by scales first, and the largest go apart (`graph/rewrite/smooth.py`). What rounding adds to the outputs follows
from statistics that are known already: inputs that were held back, the variances of error feedback, a product's gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from onnxopt.build.forms import ranges
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.dynamic_noise import measure
from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import ChannelRanges, FusedOp, Smoothing, is_quantized, products, smoothed, step_of_value
from onnxopt.measure.clock import Clock
from onnxopt.passes.base import matrix
from onnxopt.passes.quantise.integers import Integers
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.spec.contract import DEFAULT_ERROR
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.strategies.base import Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline

_SMALLEST = 2**14
"""Smallest weight to consider, in elements: rounding its input takes longer than a smaller product."""
_SHARES = (0.7, 0.35, 0.1)
"""Shares of the allowed noise power for rounded inputs, in the order in which they are tried; weights get the rest."""
_LEVELS = 255
"""Steps of 8 bits over the range of an input."""
_APART = 4
"""Channels that go apart."""
_WORTH = 0.5
"""What takes more nodes has to halve a value's noise..."""
_SMOOTH_FROM, _APART_FROM = 0.005, 0.1
"""...if that is at least this share of the allowed power: one node for smoothing, three more for channels apart."""
_ROUND_UP = 2**0.125
"""Steps of weights lie on a grid, up to so much above what their bits need."""


@dataclass(frozen=True, slots=True)
class _Input:
    """A value, and the products that read it."""

    value: str
    weights: tuple[str, ...]
    elements: int
    """Of the weights: in proportion to the time that is saved."""
    noise: float
    """Noise over signal, in power, in the model's outputs when the value is rounded."""
    coarse: float
    """The same, of weights with as many bits as the kernels take: they cannot make less."""
    smoothing: Smoothing
    apart: int | None
    """Channels that go apart; None if it is not smoothed."""

    @property
    def total(self) -> float:
        """Noise over signal of both."""
        return self.noise + self.coarse

    def steps(self, bits: int) -> Iterator[tuple[str, Step]]:
        """The structural steps."""
        if self.apart is not None:
            yield self.value, step_of_value(smoothed=self.apart)
        yield self.value if self.apart is None else smoothed(self.value), step_of_value(dynamic=True)
        for path in self.weights:
            yield path, Step(Integers.name, (("bits", bits),))


class DynamicInt8(Strategy):
    """Proposes the largest products within the noise budget, then fewer."""

    name = "dynamic"
    title = "Dynamic INT8 (MatMulInteger)"
    phrase = "with dynamic INT8 products"
    order = 8
    goals = frozenset({Goal.SPEED})
    worth = 0.9
    """As for INT8."""
    columns = (
        Column("path", "Weight", "The weight of the matrix product"),
        Column("apart", "Apart", "Channels of its input that go apart; empty if it is not smoothed"),
        Column("noise", "Noise", "Noise over signal in the model's outputs if only the product's input is rounded"),
    )

    def applies(self, base: Baseline) -> bool:
        """Whether there are such products."""
        return bool(_usable(base, base.work))

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """What the strategy does."""
        return ("matrix products multiply int8 weights by inputs that each run rounds to 8 bits, where that saves time "
                "on this machine.")  # fmt: skip

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes sets of products."""
        if is_quantized(base.work.graph.model):
            return Refused("it is quantized already, and stays as it is")
        allowed = max(base.noise, DEFAULT_ERROR) if base.kept.trial.error is None else base.kept.trial.error
        try:
            inputs = _measured(base, allowed**2)
        except OnnxoptError as error:
            return Refused(str(error))
        reason, time, seen = "no large product has inputs whose noise is known", None, set[frozenset[str]]()
        for share in _SHARES:
            chosen = _chosen(inputs, allowed**2 * share)
            if not chosen or (names := frozenset(one.value for one in chosen)) in seen:
                continue
            seen.add(names)
            steps = dict(step for one in chosen for step in one.steps(base.request.kind.bits))
            variant = Variant(steps, tuple(_rows(inputs, names)))
            lost = yield Proposal((variant,), base.kept.trial.slope)
            reason, time = lost.reason, lost.time
            if lost.searched is None:  # fewer products do not save more time
                break
        return Refused(reason, tuple(_rows(inputs, frozenset())), time)


def _measured(base: Baseline, allowed: float) -> list[_Input]:
    """Inputs of products with their noise, which is scaled so that its sum is what all of them together make.

    Arguments:
        allowed: noise over signal, in power.

    Raises OnnxoptError if the model cannot have the operators.
    """
    work, data = base.work.ready_for_int8(lambda one: False), base.original.parts.calibration
    work.progress("measuring the noise of rounded inputs of products", 0.3)
    inputs = list(_inputs(base, work, allowed))
    together = measure(work.graph.model, {one.value: one.smoothing for one in inputs}, data) if inputs else 0.0
    apart = sum(one.noise for one in inputs)
    return [replace(one, noise=one.noise * together / apart) for one in inputs] if apart else inputs


def _usable(base: Baseline, work: Workspace) -> dict[str, list[FusedOp]]:
    """By value, its products, where all of them are large and have undecided weights; in graph order."""
    large = {
        site.path
        for site in work.sites
        if site.path in base.undecided and site.elements >= _SMALLEST and site.path not in work.form.int8
    }
    found = products(work.graph.model)
    return {value: ops for value, ops in found.items() if all(op.weight in large for op in ops)}


def _inputs(base: Baseline, work: Workspace, allowed: float) -> Iterator[_Input]:
    """Inputs of products, as far as their noise is known."""
    usable = _usable(base, work)
    known = ranges(work.graph.model, base.original.parts.calibration, list(usable))
    noises = _Noises(work, 2 ** (base.request.kind.bits - 1) - 1)
    for value, ops in usable.items():
        if (option := noises.option(value, ops, known[value], allowed)) is not None:
            yield option


@dataclass(frozen=True)
class _Noises:
    """What rounding does to a model's outputs, by statistics of its weights."""

    work: Workspace
    largest: int
    """Steps of a weight on either side of 0."""

    def option(self, value: str, ops: Sequence[FusedOp], ranged: ChannelRanges, allowed: float) -> _Input | None:
        """A value with the fewest nodes that more would not make much better; None if its noise is unknown.

        Arguments:
            allowed: noise over signal, in power.
        """
        paths = tuple(op.weight for op in ops if op.weight is not None)
        elements = sum(self.work.graph.values(path).size for path in paths)

        def option(smoothing: Smoothing, apart: int | None) -> _Input:
            step = ranged.squared_range(smoothing) ** 0.5 / _LEVELS
            rounded, coarse = zip(*(self._of(path, smoothing, step) for path in paths), strict=True)
            return _Input(value, paths, elements, sum(rounded), sum(coarse), smoothing, apart)

        best = option(Smoothing(np.ones(ranged.low.shape[1], np.float32)), None)
        for apart, least in ((0, _SMOOTH_FROM), (_APART, _APART_FROM)):
            other = option(ranged.smoothing(apart), apart)
            if best.total >= least * allowed and other.total <= _WORTH * best.total:
                best = other
        return best if best.total < inf else None

    def _of(self, path: str, smoothing: Smoothing, step: float) -> tuple[float, float]:
        """Noise over signal, in power, in the outputs from a product's input, rounded with this step after smoothing,
        and from its weight with all steps that the kernels take; infinite if unknown."""
        (site,) = (site for site in self.work.sites if site.path == path)
        values = self.work.graph.values(path)
        stats = self.work.statistics.of(site, values)
        moments = stats.moments
        if moments is None or not moments.held_back.shape[1] or not step or not (signal := _signal(stats, values)):
            return inf, inf
        w = matrix(values, site, stats)[0].astype(np.float32) * (smoothing.scales * (smoothing.factors > 0))
        mean = moments.mean[0] if stats.linear is not None and stats.linear.bias else np.zeros(w.shape[1])
        x = (moments.held_back[0] + mean.astype(np.float32)) * smoothing.factors
        errors = np.rint(x / np.float32(step)) * np.float32(step) - x
        rounded = float(np.square(errors @ w.T, dtype=np.float64).sum()) / signal * stats.signal
        steps = np.abs(w).max(1).astype(np.float64) * _ROUND_UP / self.largest
        coarse = float(np.square(steps).sum() / 12 * (moments.variance[0] * np.square(smoothing.factors)).sum())
        return rounded * stats.gain, coarse * stats.gain


def _signal(stats: Stats, values: Array) -> float:
    """Power of a product's outputs on held-back inputs."""
    assert stats.linear is not None
    assert stats.moments is not None
    return stats.moments.noise(stats.linear.matrix(values.astype(np.float32)))


def _chosen(inputs: Sequence[_Input], most: float) -> list[_Input]:
    """Inputs whose noise together stays within `most`, those that make the least for the time they save first."""
    chosen, noise = list[_Input](), 0.0
    for one in sorted(inputs, key=lambda one: (one.total / one.elements, one.value)):
        if noise + one.total <= most:
            chosen.append(one)
            noise += one.total
    return chosen


def _rows(inputs: Sequence[_Input], taken: frozenset[str]) -> Iterator[Mapping[str, object]]:
    """One row for each product."""
    for one in inputs:
        for path in one.weights:
            accepted = one.value in taken
            yield {"path": path, "apart": one.apart, "noise": one.noise**0.5, "accepted": accepted,
                   "reason": "" if accepted else "stays float"}  # fmt: skip
