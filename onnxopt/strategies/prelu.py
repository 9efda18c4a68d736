"""Rewrites PRelu as equivalent depthwise convolutions, because ONNX Runtime runs PRelu as a single-core loop."""

from __future__ import annotations

from onnxopt.graph import step_of_value
from onnxopt.measure.clock import Clock
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.spec.goal import Goal
from onnxopt.strategies.base import Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline


class PReluAsConvolutions(Strategy):
    """One proposal for all PRelu nodes; the time of the whole model decides."""

    name = "prelu"
    title = "PRelu as depthwise convolutions"
    phrase = "with convolutions for PRelu"
    order = 0
    goals = frozenset({Goal.SPEED, Goal.BALANCED})
    exact = True
    columns = (Column("path", "Value", "The output of the PRelu"),)

    def applies(self, base: Baseline) -> bool:
        """Whether the model has any PRelu that can be rewritten."""
        return bool(base.work.graph.prelus)

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """How many PRelu nodes there are, and whether they were rewritten."""
        used = any(row["accepted"] for row in layers)
        return f"{len(layers)} PRelu {'run as depthwise convolutions' if used else 'stay'}."

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes to rewrite all PRelu nodes."""
        values = base.work.graph.prelus
        rows: list[LayerOutcome] = [{"path": value, "accepted": True, "reason": ""} for value in values]
        steps = dict.fromkeys(values, step_of_value(depthwise=True))
        lost = yield Proposal((Variant(steps, tuple(rows)),), 0.0)
        kept = tuple({**row, "accepted": False, "reason": lost.reason} for row in rows)
        return Refused(lost.reason, kept, lost.time)
