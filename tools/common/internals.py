"""What tables need of onnxopt behind its public functions, in one place."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from onnxopt import Contract
from onnxopt.build.workspace import Workspace
from onnxopt.data import open_data, quiet_session
from onnxopt.graph import read
from onnxopt.search.allocation import Goal
from onnxopt.search.contract_search import ContractSearch
from onnxopt.spec.overrides import Overrides
from onnxopt.strategies.low_rank import factored


def workspace(source: Path, max_ram: int = 2**29) -> Workspace:
    """The model as the search sees it: normalised and cleaned."""
    return Workspace(read(source), False, "balanced", max_ram, lambda what, share: None)


@contextmanager
def calibrated(source: Path, data: Any) -> Iterator[Workspace]:
    """The same, with statistics of all of the data."""
    engine = workspace(source)
    engine.calibrate(open_data(data, quiet_session(str(source))))
    yield engine
    engine.close(keep=False)


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

    engine = Workspace(read(source), False, "balanced", 2**31, progress)
    tuner = ContractSearch(engine, contract, Overrides())
    tuner.calibrate(data, None)
    best, met = tuner.run()
    assert met
    with factored(tuner, best, Goal(goal), progress) as found:
        built = found.tuner.engine.build(found.tuner.plan(found.best), lambda share: None)
        found.tuner.engine.write(built, output)
    engine.close(keep=False)
    done = found.factoring
    written = done.chained if done.kept and done.chained else done.plain
    assert written.error is not None
    factorised = sum(layer.accepted for layer in done.layers)
    return LowRank(len(done.layers), factorised, done.kept, done.plain.size, written.error)
