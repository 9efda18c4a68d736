"""Values that fine-tuning found, in the place of those that the steps before would give."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Self

from onnxopt.calibration.stats import Stats
from onnxopt.encoding import Encoding
from onnxopt.errors import OnnxoptError
from onnxopt.graph import Graph, Site
from onnxopt.passes.base import Pass


@dataclass(frozen=True, slots=True)
class Tuned(Pass):
    """``feedback{slope=1e-07} > tuned``: the integers are trained ones, on the grid of this feedback.

    After ``prune``, the floats that are left are trained ones; after ``codebook``, the values that elements share.
    """

    name: ClassVar[str] = "tuned"

    @classmethod
    def space(cls, site: Site, stats: Stats) -> Iterator[Self]:
        """No decisions: a step does not hold the values."""
        yield from ()

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Raises OnnxoptError: `Values` knows them."""
        raise OnnxoptError(f"plan, path {site.path!r}: its values were tuned, and a plan does not hold them; "
                           "`onnxopt optimize --tune --plan-out` writes them beside the plan")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Values(Tuned):
    """The same, with the values of one weight."""

    own: Encoding

    def apply(self, graph: Graph, site: Site, stats: Stats) -> tuple[Site, ...]:
        """Stores them."""
        graph.store(site.path, self.own)
        return ()
