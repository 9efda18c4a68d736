"""What tests of calibration share: a model with statistics that were measured, and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from onnxopt.calibration import collect
from onnxopt.calibration.budget import Budget
from onnxopt.calibration.cache import Cache
from onnxopt.calibration.collect import Statistics
from onnxopt.calibration.stats import Moments, Stats
from onnxopt.data import open_data, quiet_session
from onnxopt.graph import Graph, normalise

Array = np.ndarray[Any, Any]
MUCH = 2**30


class Calibrated:
    """A model's graph with statistics that were measured on samples, [n, ...], in batches."""

    def __init__(
        self, made: onnx.ModelProto, samples: Array, folder: Path, max_ram: int = MUCH, batch: int = 16
    ) -> None:
        normalise(made)
        self.graph = Graph(made)
        self.sites = {site.path: site for site in self.graph.sites()}
        session = quiet_session(made.SerializeToString())
        self.data = open_data(lambda: np.split(samples, range(batch, len(samples), batch)), session)
        self.told: list[tuple[str, float]] = []
        self.folder = folder
        self.statistics = self.measure(max_ram)

    def measure(self, max_ram: int) -> Statistics:
        self.cache = Cache(str(self.folder))
        return collect.calibrate(
            self.graph,
            list(self.sites.values()),
            self.data,
            self.cache,
            Budget(max_ram),
            lambda what, share: self.told.append((what, share)),
        )

    def of(self, path: str) -> Stats:
        return self.statistics.of(self.sites[path], self.graph.values(path))

    def moments(self, path: str) -> Moments:
        moments = self.of(path).moments
        assert moments is not None
        return moments

    def values(self, name: str, samples: Array) -> Array:
        """What the model computes for `name`."""
        expose = onnx.ModelProto()
        expose.CopyFrom(self.graph.model)
        expose.graph.output.add(name=name)
        return np.asarray(quiet_session(expose.SerializeToString()).run([name], {"x": samples})[0])


def vectors(samples: int, width: int) -> Array:
    """Correlated, with a mean."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((samples, width)) @ rng.standard_normal((width, width)) / 4 + rng.standard_normal(width)
    return x.astype(np.float32)
