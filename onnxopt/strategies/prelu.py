"""PRelu as depthwise convolutions, which compute the same: ONNX Runtime runs PRelu as a loop on one core."""

from __future__ import annotations

from onnxopt.graph import step_of_value
from onnxopt.measure.clock import Clock
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.spec.goal import Goal
from onnxopt.strategies.base import Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline


class PReluAsConvolutions(Strategy):
    """Decided by the time of the whole model, for all nodes at once."""

    name = "prelu"
    title = "PRelu as depthwise convolutions"
    phrase = "with convolutions for PRelu"
    order = 0
    goals = frozenset({Goal.SPEED, Goal.BALANCED})
    exact = True
    columns = (Column("path", "Value", "What the PRelu makes"),)

    def applies(self, base: Baseline) -> bool:
        """Whether there are any."""
        return bool(base.work.graph.prelus)

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """How many there are."""
        used = any(row["accepted"] for row in layers)
        return f"{len(layers)} PRelu {'run as depthwise convolutions' if used else 'stay'}."

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """All of them."""
        values = base.work.graph.prelus
        rows: list[LayerOutcome] = [{"path": value, "accepted": True, "reason": ""} for value in values]
        steps = dict.fromkeys(values, step_of_value(depthwise=True))
        lost = yield Proposal((Variant(steps, tuple(rows)),), 0.0)
        kept = tuple({**row, "accepted": False, "reason": lost.reason} for row in rows)
        return Refused(lost.reason, kept, lost.time)
