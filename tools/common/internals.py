"""What tables need of onnxopt behind its public functions, in one place."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

from onnxopt import Contract
from onnxopt.build.preparation import prepare
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.stats import Stats
from onnxopt.data import Array, open_data, quiet_session
from onnxopt.graph import Site, read
from onnxopt.request import Request
from onnxopt.search.slope import expected_error, slope_where
from onnxopt.spec.overrides import Overrides
from onnxopt.strategies.baseline import calibrate
from onnxopt.strategies.low_rank import LowRank
from onnxopt.strategies.pursue import pursue, report


def sites(source: Path) -> Sequence[Site]:
    """The weights of a model that steps may act on, after clean-ups."""
    with _workspace(source) as work:
        return work.sites


def _workspace(source: Path) -> Workspace:
    return prepare(read(source), Request(max_ram=2**29))


def at_noise(source: Path, errors: Sequence[float], data: Sequence[Array]) -> Iterator[tuple[float, Path]]:
    """Files of a model, each at the slope whose noise over signal the statistics promise, with that slope.

    A file is there until the next one is asked for.
    """
    with prepare(read(source), Request(contract=Contract(error=errors[0]), data=data)) as work:
        ready = calibrate(work).work
        weights = ready.candidates()
        for error in errors:
            slope = slope_where(lambda at: expected_error(weights, at), error)
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "small.onnx"
                ready.write(ready.build(ready.plan(slope, Overrides())), file)
                yield slope, file


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Weights of a model, and statistics of their inputs."""

    sites: Sequence[Site]
    values: Callable[[Site], Array]
    stats: Callable[[Site], Stats]


@contextmanager
def calibrated(source: Path, data: Any) -> Iterator[Calibrated]:
    """A model calibrated on all of the data."""
    with _workspace(source) as plain:
        work = plain.calibrated(open_data(data, quiet_session(str(source))))

        def values(site: Site) -> Array:
            return work.graph.values(site.path)

        yield Calibrated(work.sites, values, lambda site: work.statistics.of(site, values(site)))


@dataclass(frozen=True, slots=True)
class Factorised:
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


def low_rank(source: Path, output: Path, contract: Contract, goal: str, data: Any) -> Factorised:
    """Compresses with the low-rank strategy alone, without INT8."""
    started, said = monotonic(), set[str]()

    def progress(what: str, share: float) -> None:
        if what not in said:
            said.add(what)
            print(f"{monotonic() - started:.0f} s: {what}", file=sys.stderr)

    request = Request.of(contract, data, {"goal": goal, "max_ram": 2**31, "progress": progress})
    with prepare(read(source), request) as plain:
        base = calibrate(plain)
        base = replace(base, searched=base.search.run(base.work, base.contract))
        assert base.kept.met
        pursued = pursue(LowRank(), base, request.clock)
        work, searched = base.work, base.kept
        if pursued.outcome and pursued.outcome.searched:
            work, searched = pursued.outcome.work, pursued.outcome.searched
        work.write(work.build(searched.plan), output)
    layers = report(pursued).layers
    assert searched.trial.error is not None
    accepted = sum(bool(layer["accepted"]) for layer in layers)
    return Factorised(len(layers), accepted, pursued.outcome is not None, base.kept.trial.size, searched.trial.error)
