"""What tables need of onnxopt behind its public functions, in one place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from onnxopt import Contract
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.stats import Stats
from onnxopt.data import Array, open_data, quiet_session
from onnxopt.graph import Site, read
from onnxopt.search.allocation import Goal
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.overrides import Overrides
from onnxopt.strategies.low_rank import factored


def sites(source: Path) -> list[Site]:
    """The weights of a model that steps may act on, after clean-ups."""
    return _workspace(source).sites


def _workspace(source: Path) -> Workspace:
    return Workspace(read(source), False, "balanced", 2**29, lambda what, share: None)


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Weights of a model, and statistics of their inputs."""

    sites: list[Site]
    values: Callable[[Site], Array]
    stats: Callable[[Site], Stats]


@contextmanager
def calibrated(source: Path, data: Any) -> Iterator[Calibrated]:
    """A model calibrated on all of the data."""
    work = _workspace(source)
    work.calibrate(open_data(data, quiet_session(str(source))))

    def values(site: Site) -> Array:
        return work.graph.values(site.path)

    yield Calibrated(work.sites, values, lambda site: work.statistics.of(site, values(site)))
    work.close(keep=False)


@dataclass(frozen=True, slots=True)
class LowRank:
    """What the low-rank strategy did to a model."""

    layers: int
    """That were considered."""
    factorised: int
    kept: bool
    """Whether the file has the factorised layers."""
    plain_size: int
    """Bytes without factorisation."""
    error: float
    """Noise over signal of what was written."""


def low_rank(source: Path, output: Path, contract: Contract, goal: str, data: Any) -> LowRank:
    """Compresses with the low-rank strategy alone, without INT8."""
    started, said = monotonic(), set[str]()

    def progress(what: str, share: float) -> None:
        if what not in said:
            said.add(what)
            print(f"{monotonic() - started:.0f} s: {what}", file=sys.stderr)

    work = Workspace(read(source), False, "balanced", 2**31, progress)
    search = ContractSearch(work, contract, Overrides())
    search.calibrate(data, None)
    best, met = search.run()
    assert met
    with factored(search, best, Goal(goal), progress) as found:
        built = found.tuner.engine.build(found.tuner.plan(found.best), lambda share: None)
        found.tuner.engine.write(built, output)
    work.close(keep=False)
    done = found.factoring
    written = done.chained if done.kept and done.chained else done.plain
    assert written.error is not None
    factorised = sum(layer.accepted for layer in done.layers)
    return LowRank(len(done.layers), factorised, done.kept, done.plain.size, written.error)
