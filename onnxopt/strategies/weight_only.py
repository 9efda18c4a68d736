"""The search again, with matrix products whose weights stay integers when the model runs: where that saves time.

At batch 1 a large product takes as long as its weights take to be read, and integers of 4 or 8 bits are read in a part
of the time. What each layer gains alone, and what noise that makes, is measured; so is the time of the whole model.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from onnxopt.build.workspace import LARGEST_INLINE, Workspace
from onnxopt.calibration.chunks import one_sample
from onnxopt.data import Array
from onnxopt.measure.benchmark import SpeedRatio, milliseconds, time_ratio
from onnxopt.passes import Skip
from onnxopt.results.result import Blocks, Product
from onnxopt.search.allocation import Allocator, Goal, Layer, LayerOption, Part
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import DEFAULT_ERROR
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Progress
from onnxopt.strategies.layer_candidates import WeightOnlyOption, weight_only_options

_LEAST = 2**14
"""Elements of a weight: a smaller product takes as long as it takes to call it."""
_SECONDS = 60.0
"""That two models are compared for at most; some 30 do where nothing else runs on the machine."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be written."""

    tuner: ContractSearch
    best: Trial
    blocks: Blocks

    def attempts(self) -> Iterator[Found]:
        """What to write, if anything."""
        if self.blocks.kept:
            yield self


@contextmanager
def blocked(tuner: ContractSearch, best: Trial, progress: Progress) -> Iterator[Found]:
    """What is to be written where products may be on integers in blocks; it is there until the context ends.

    Arguments:
        tuner: has searched without them.
        best: what it kept, which meets the contract.
        progress: told what is being done, and the share of it.

    Raises OnnxoptError where the model with them does not run.
    """
    if tuner.calibration is None:
        yield _without(tuner, best, "the model does not run, so nothing is known of its layers")
        return
    if tuner.engine.source.size > LARGEST_INLINE:
        yield _without(tuner, best, "the model is over 2 GB")
        return
    sample = one_sample(tuner.engine.graph.model, tuner.calibration).feeds
    offered = _offered(tuner, sample, progress)
    noise = max(tuner.error(best), DEFAULT_ERROR) if best.error is None else best.error  # a size bounds none
    steps = _chosen(offered, noise)
    products = tuple(_products(offered, steps))
    if not steps:
        yield _without(tuner, best, "no product is faster on integers in blocks", products)
        return
    time = _compared(tuner.engine, steps, sample, progress)
    if not (time.significant and time.ratio < 1):
        reason = f"the model takes {time.ratio:.3f}x the time on them ({time.low:.3f} to {time.high:.3f})"
        yield _without(tuner, best, reason, products, time)
        return
    other = tuner.fork({}, best.slope, lambda what, share: progress(f"in blocks: {what}", 0.5 + share / 2))
    try:
        other.decide(steps)
        trial, met = other.run()
        if met and trial.size < tuner.engine.source.size:
            yield Found(other, trial, Blocks(True, "", time, trial, products))
        else:
            yield _without(tuner, best, "the contract cannot be met on integers in blocks", products, time)
    except BaseException:
        other.engine.close(keep=True)
        raise
    other.engine.close(keep=False)


def _without(
    tuner: ContractSearch, best: Trial, reason: str, products: tuple[Product, ...] = (), time: SpeedRatio | None = None
) -> Found:
    """The model as it was."""
    return Found(tuner, best, Blocks(False, reason, time, None, products).given_up(reason))


def _offered(
    tuner: ContractSearch, sample: Mapping[str, Array], progress: Progress
) -> dict[str, list[WeightOnlyOption]]:
    """By path, what products of some size might become."""
    engine, found = tuner.engine, {}
    sites = [site for site in engine.sites if site.path in tuner.undecided and site.elements >= _LEAST]
    for i, site in enumerate(sites):
        progress(f"integers in blocks for {site.path}", 0.4 * i / len(sites))
        stats = engine.statistics.of(site, engine.graph.values(site.path))
        try:
            found[site.path] = weight_only_options(engine.graph, site, stats, sample, milliseconds)
        except Skip:  # a convolution, say: nobody expects it
            continue
    return found


def _chosen(offered: Mapping[str, list[WeightOnlyOption]], error: float) -> dict[str, Step]:
    """Those of least time that make a share of the noise that the search left."""
    layers, part = [], Part(1, 0.0, 0.0)  # sizes do not count
    for path, options in offered.items():
        known = [(one, noise) for one in options if (noise := one.noise) is not None]
        if known:
            chains = tuple(LayerOption(str(one.step), (part,), noise, 0, one.ms) for one, noise in known)
            layers.append(Layer(path, LayerOption("", (part,), 0.0, 0, known[0][0].ms_before), chains))
    chosen = Allocator(layers, 1.0, error**2).choose(Goal.SPEED).chains
    return {path: Step.parse(step) for path, step in chosen.items()}


def _products(offered: Mapping[str, list[WeightOnlyOption]], steps: Mapping[str, Step]) -> Iterator[Product]:
    """What became of each, or what was fastest."""
    for path, options in offered.items():
        taken = [one for one in options if one.step == steps.get(path)]
        one = taken[0] if taken else min(options, key=lambda one: one.ms)
        noise = None if one.noise is None else one.noise**0.5
        yield Product(path, str(one.step), one.ms_before, one.ms, noise, bool(taken))


def _compared(
    engine: Workspace, steps: Mapping[str, Step], sample: Mapping[str, Array], progress: Progress
) -> SpeedRatio:
    """The time of the whole model with these steps against floats."""
    with tempfile.TemporaryDirectory() as folder:
        paths = Path(folder) / "blocks.onnx", Path(folder) / "floats.onnx"
        for path, chosen in zip(paths, (dict(steps), {}), strict=True):
            path.write_bytes(engine.to_plain_model(Plan(engine.source.sha256, chosen)))
        engine.graph.reset()
        found = time_ratio(*paths, [dict(sample)], _SECONDS, lambda share: progress(
            "running in turns, on integers in blocks and on floats", 0.4 + 0.1 * share))  # fmt: skip
    return replace(found, path="in blocks", against="in floats")
