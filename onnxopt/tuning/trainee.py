"""A workspace whose weights are tuned, at one slope after another."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import onnx

from onnxopt.build.workspace import Workspace
from onnxopt.data.stream import sha256
from onnxopt.encoding import Affine, Array, Encoding, Raw
from onnxopt.errors import OnnxoptError
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.passes.quantise.tuned import Tuned
from onnxopt.search.original import Parts
from onnxopt.spec.augment import Augment
from onnxopt.spec.plan import Plan, Step
from onnxopt.tuning.augmented import is_images
from onnxopt.tuning.budget import Budget
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.price import Price
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.training import train
from onnxopt.tuning.weights import Weight, Weights

_POWER = 8
"""Batches that show the power of the outputs."""
_CUT, _CUTS = np.float32(0.01), 20
"""Steps by which all weights move towards cheaper integers where a file is too large, and how often at most."""


class Trainee:
    """The weights that the slope decides on, and the biases that stay floats.

    Others keep what their steps give: those that the user's rules decide on, and those that no gradient reaches, which
    `frozen` names.

    Arguments:
        parts: samples to train on, and others that show what it is worth.
        blends: see `Lessons`.

    Raises OnnxoptError if no gradient reaches any, the data cannot be read, or images shall be augmented and there are
    none.
    """

    def __init__(self, work: Workspace, parts: Parts, budget: Budget, loss: Loss, blends: bool) -> None:
        data, held = parts.calibration, parts.validation
        self._work, self._budget = work, budget
        work.graph.reset()
        steps, linears = work.plan(1.0, work.request.overrides).steps, work.graph.linears()
        sites = {site.path for site in work.sites}
        biases = dict.fromkeys(one.bias for uses in linears.values() for one in uses if one.bias)
        self._fixed = [path for path, step in steps.items() if path in sites and not _is_slopes(step)]
        self._quantized = [path for path, step in steps.items() if path in sites and _is_slopes(step)]
        self._floats = [bias for bias in biases if bias not in sites]
        model, trained = onnx.ModelProto(), [*self._quantized, *self._floats]
        model.CopyFrom(work.graph.model)
        self._student = Student(model, [*trained, *self._fixed], trained, loss)
        self._values: Mapping[str, Array] = {}
        """What the last round has found, by path."""
        self.stopped = False
        """Whether the user has stopped the last round, whose weights are then as they were at that time."""
        original = {path: work.graph.values(path) for path in (*trained, *self._fixed)}
        feeds, augment = next(iter(data)).feeds, tuple(map(Augment, work.request.augment))
        if augment and not any(map(is_images, feeds.values())):
            raise OnnxoptError(f"{work.name}: --augment changes images, and no input has any (floats [n, channels, "
                               "height, width] or [n, height, width, channels]); leave it out")  # fmt: skip
        starts, self.frozen = self._student.survey(feeds, original)
        if not self.frozen.keys() < set(trained):
            raise OnnxoptError(f"{work.name}: no weight can be tuned: {next(iter(self.frozen.values()), 'it has none')}"
                               "; leave --tune out")  # fmt: skip
        teacher, observed = work.origin.graph.model, [start.name for start in starts]
        self._lessons = Lessons(data, teacher, observed, blends, augment)
        self._held = Lessons(held, teacher, observed)
        few = [self._lessons.lesson(index) for index in range(min(_POWER, len(self._lessons)))]
        loss.learn(starts, sum(one.samples for one in few), [one.wanted for one in few])

    def tune(self, slope: float, size: int | None, advance: Callable[[str], None]) -> tuple[Workspace, Plan]:
        """Tunes at a slope, from where the last round has ended.

        Arguments:
            size: of the file, at most, in bytes; None where the slope decides on it.
            advance: told what is being done.

        Returns the workspace with the values, and its plan.
        """
        advance("quantizing")
        over, graph = self._budget.next_round(len(self._lessons)), self._work.graph
        plan = self._work.plan(slope, self._work.request.overrides)
        encodings = self._work.build(plan).encodings
        known: dict[str, Encoding] = {path: encodings.get(path, Raw(graph.values(path))) for path in self._paths}
        trained = [path for path in self._paths if self._trains(path, known[path])]
        start = {**{path: graph.values(path) for path in trained}, **self._values}
        weights = Weights([Weight(path, known[path]) for path in trained], start, near=not self._values)
        fixed = {path: one.values() for path, one in known.items() if path not in trained}
        price = Price(slope, size, lambda: self._size(plan, weights.stored()))
        try:
            for passes, loss, bits in train(self._student, self._lessons, weights, fixed, price, over):
                advance(f"pass {passes}, {loss**0.5:.3g} from the original, weights of {bits / 8:,.0f} bytes")
        except KeyboardInterrupt:
            self.stopped = True
        rate = Rate(weights.matrices)
        for _ in range(_CUTS if size is not None else 0):
            if self._size(plan, weights.stored()) <= (size or 0):
                break
            rate.learn(weights.rounded)
            weights.rounded -= _CUT * np.sign(rate.gradient(weights.rounded))
        self._values, values = weights.values(), weights.stored()
        return self._work.with_tuned(values), _planned(plan, values)

    def distance(self, work: Workspace, plan: Plan) -> float:
        """Of the outputs of a plan's file from the original's, on samples that are held back; see `Loss`."""
        encodings, graph = work.build(plan).encodings, self._work.graph
        values = {path: encodings[path].values() if path in encodings else graph.values(path) for path in self._paths}
        lessons = [self._held.lesson(index) for index in range(len(self._held))]
        total = sum(self._student.gradient(one, values)[0] * one.samples for one in lessons)
        return total / sum(one.samples for one in lessons)

    def _size(self, plan: Plan, values: Mapping[str, Encoding]) -> int:
        """Of the file with these values, in bytes."""
        return self._work.with_tuned(values).try_plan(_planned(plan, values), None)[0]

    @property
    def _paths(self) -> list[str]:
        return [*self._quantized, *self._floats, *self._fixed]

    def _trains(self, path: str, stored: Encoding) -> bool:
        if path in self.frozen or path in self._fixed:
            return False
        return path in self._floats or isinstance(stored, Affine)  # a weight of zeros, say, stays as it came


def _is_slopes(step: Step) -> bool:
    """Whether a slope alone decides."""
    return step.name == Feedback.name and step.then is None and not Feedback.from_step(step).max_bits


def _planned(plan: Plan, values: Mapping[str, Encoding]) -> Plan:
    """The plan whose weights have these values."""
    steps = {path: Step(step.name, step.args, Tuned().step()) if path in values else step
             for path, step in plan.steps.items()}  # fmt: skip
    elements = (entry.elements.tobytes() for path in sorted(values) for entry in values[path].entries())
    return replace(plan, steps=steps, values=sha256(*(path.encode() for path in sorted(values)), *elements))
