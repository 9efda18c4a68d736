"""The values of a model at which differences from another are measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Observed:
    """The values of a model at which differences are measured, in an order that follows from its structure alone."""

    values: tuple[str, ...]
    """Float values of the main graph."""
    hidden: tuple[str, ...] = ()
    """Those of them that are not outputs of the model."""
    selected: frozenset[str] = frozenset()
    """Those of them, and of the outputs, whose rows a decision selects: two models may differ in their number."""
    labels: tuple[str, ...] = ()
    """Outputs that are no floats, and whose places stay the same: they are compared one by one."""
    classes: dict[str, int] = field(default_factory=dict)
    """For scores that only an ArgMax or ArgMin reads, the axis along which a common shift has no effect."""

    @property
    def visible(self) -> Observed:
        """The outputs among them."""
        return replace(self, values=tuple(name for name in self.values if name not in self.hidden), hidden=())

    @property
    def axes(self) -> tuple[int | None, ...]:
        """The axis of each value along which a common shift has no effect, or None."""
        return tuple(self.classes.get(name) for name in self.values)
