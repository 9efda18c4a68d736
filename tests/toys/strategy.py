"""Quantizes the largest weight on a grid of its own, and leaves the others to the search."""

from __future__ import annotations

from onnxopt.measure.clock import Clock
from onnxopt.results.strategy import Column
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.strategies.base import Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline


class Toy(Strategy):
    """Proposes one form, whatever its time."""

    name = "toy"
    title = "A grid for the largest weight"
    phrase = "with a grid for the largest weight"
    order = 40
    goals = frozenset({Goal.SIZE})
    columns = (Column("path", "Weight", "The largest"), Column("step", "Step", "That it has at every slope"))

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """See the class."""
        path = max(base.work.sites, key=lambda site: site.elements).path
        step = Step.parse("uniform{error=0.02}")
        row = {"path": path, "step": str(step), "accepted": True, "reason": ""}
        lost = yield Proposal((Variant({path: step}, (row,)),), base.kept.trial.slope, timed=False)
        return Refused(lost.reason, ({**row, "accepted": False, "reason": lost.reason},))
