"""Weight-only quantization at run time: matrix products keep 4-bit or 8-bit integer weights (MatMulNBits).

At batch 1, reading the weights dominates the time of a large product, and 4-bit or 8-bit weights are read faster. The
gain and the noise of each layer are measured, and so is the time of the whole model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnxopt.measure.clock import Clock
from onnxopt.passes import Skip
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.search.allocation import Allocator, Layer, LayerOption, Part
from onnxopt.spec.contract import DEFAULT_ERROR
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.strategies.base import Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline
from onnxopt.strategies.layer_candidates import WeightOnlyOption, weight_only_options

_SMALLEST = 2**14
"""Smallest weight to consider, in elements: call overhead dominates smaller products."""
_REST = 0.5
"""Of the noise over signal, where values that are rounded to 8 bits make most of it."""


class WeightOnly(Strategy):
    """Makes one proposal: the products that save the most time within the noise budget of the kept file."""

    name = "weight_only"
    title = "Weight-only quantization (MatMulNBits)"
    phrase = "with weight-only products"
    order = 30
    goals = frozenset({Goal.SPEED})
    adds = True
    columns = (
        Column("path", "Weight", "The weight of the matrix product"),
        Column("step", "Step", "The step that was applied, or the fastest candidate"),
        Column("ms", "ms", "Milliseconds of the layer alone on one sample, before and after"),
        Column("noise", "Noise", "Noise over signal in the model's outputs, from the quantized weight"),
    )

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """What the strategy does."""
        return "weights of large matrix products keep 4 or 8 bits at run time where that saves time on this machine."

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes one set of products to quantize."""
        offered = _offered(base, clock)
        trial = base.kept.trial
        noise = max(base.noise, DEFAULT_ERROR) if trial.error is None else trial.error  # a size bound limits no noise
        steps = _chosen(offered, noise * (_REST if base.work.form.int8 else 1.0))
        rows = tuple(_rows(offered, steps))
        if not steps:
            return Refused("no product is faster with weight-only integers", rows)
        lost = yield Proposal((Variant(steps, rows),), trial.slope)
        return Refused(lost.reason, tuple({**row, "accepted": False} for row in rows), lost.time)


def _offered(base: Baseline, clock: Clock) -> dict[str, list[WeightOnlyOption]]:
    """Options of each large enough product, by path."""
    work, found = base.work, {}
    free = base.undecided - work.form.int8.keys()
    sites = [site for site in work.sites if site.path in free and site.elements >= _SMALLEST]
    for i, site in enumerate(sites):
        work.progress(f"weight-only integers for {site.path}", 0.4 * i / len(sites))
        stats = work.statistics.of(site, work.graph.values(site.path))
        try:
            found[site.path] = weight_only_options(work.graph, site, stats, base.sample, clock)
        except Skip:  # such as a convolution, which needs no explanation
            continue
    return found


def _chosen(offered: Mapping[str, list[WeightOnlyOption]], error: float) -> dict[str, Step]:
    """The fastest options whose noise stays within a share of the budget."""
    layers, part = [], Part(1, 0.0, 0.0)  # sizes do not count
    for path, options in offered.items():
        known = [(one, noise) for one in options if (noise := one.noise) is not None]
        if known:
            changed = tuple(LayerOption(str(one.step), (part,), noise, 0, one.ms) for one, noise in known)
            layers.append(Layer(path, LayerOption("", (part,), 0.0, 0, known[0][0].ms_before), changed))
    chosen = Allocator(layers, 1.0, error**2).choose(Goal.SPEED).chains
    return {path: Step.parse(step) for path, step in chosen.items()}


def _rows(offered: Mapping[str, list[WeightOnlyOption]], steps: Mapping[str, Step]) -> Iterator[LayerOutcome]:
    """One row per product: the chosen option, or the fastest one."""
    for path, options in offered.items():
        taken = [one for one in options if one.step == steps.get(path)]
        one = taken[0] if taken else min(options, key=lambda one: one.ms)
        noise = None if one.noise is None else one.noise**0.5
        yield {"path": path, "step": str(one.step), "ms_before": one.ms_before, "ms_after": one.ms, "noise": noise,
               "accepted": bool(taken), "reason": ""}  # fmt: skip
