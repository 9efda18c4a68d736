"""A workspace whose weights are tuned, at one slope after another."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import onnx

from onnxopt.build.schedule import Schedule
from onnxopt.build.tuned_values import digest
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.chunks import any_batch, cut
from onnxopt.data import Batch, Data
from onnxopt.encoding import Affine, Array, Encoding, Raw
from onnxopt.errors import OnnxoptError
from onnxopt.graph import is_depthwise, is_dynamic, is_for_value
from onnxopt.graph.autodiff.gradient import Start
from onnxopt.graph.rewrite import dynamic_int8
from onnxopt.graph.rewrite.prelu_to_conv import prelu_as_convs
from onnxopt.passes.quantise.feedback import Feedback
from onnxopt.passes.quantise.integers import Integers
from onnxopt.passes.quantise.tuned import Tuned
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.original import Parts
from onnxopt.spec.augment import USUAL, Augment
from onnxopt.spec.plan import Plan, Step
from onnxopt.tuning.augmented import is_images
from onnxopt.tuning.budget import Budget, duration
from onnxopt.tuning.checkpoint import Checkpoints
from onnxopt.tuning.cut import cut_to
from onnxopt.tuning.floats import biases, parameters, tables
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.price import Price
from onnxopt.tuning.ranges import Ranges
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.training import Course, Pass, train
from onnxopt.tuning.weights import Weights

_POWER = 8
"""Batches that show the power of the outputs."""
_SELDOM = 10
"""Times as long as the file was measured, nothing is measured again while weights are trained."""

Advance = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Setting:
    """What trainings of one model have in common."""

    parts: Parts
    """Samples to train on, and others that show what it is worth."""
    budget: Budget
    loss: Loss
    blends: bool
    """Whether blends of samples train, too; see `Lessons`."""
    evaluator: Evaluator
    """Compares files after passes."""
    checkpoints: Checkpoints
    batch: int
    """Samples of an update, at most."""
    slope: float
    """At which the model keeps the contract, or is nearest to it, untuned."""


@dataclass(frozen=True, slots=True)
class Measured:
    """The file after a pass of a training."""

    passes: int
    distance: float
    size: int
    error: float | None
    drop: float | None


class Trainee(ABC):
    """Weights that are trained, and others that keep what their steps give: those that the user's rules decide on, and
    those that no gradient reaches, which `frozen` names.

    Arguments:
        trained: paths of weights and biases to train.
        fixed: paths of weights that have a step and keep what it gives.
        steps: of a plan, which say what is rounded while the model runs. Gradients pass that unchanged, too. Where
            they name 8 bits, the scales are trained.

    Raises OnnxoptError if no gradient reaches any, the data cannot be read, or images shall be augmented and there are
    none.
    """

    def __init__(
        self, work: Workspace, setting: Setting, trained: Sequence[str], fixed: Sequence[str],
        steps: Mapping[str, Step],
    ) -> None:  # fmt: skip
        data, held = setting.parts.calibration, setting.parts.validation
        self._work, self._setting, self._next = work, setting, 0.0
        self.curve: list[Measured] = []
        """Of all trainings."""
        self._trained, self._fixed = list(trained), list(fixed)
        work.graph.reset()
        model = onnx.ModelProto()
        model.CopyFrom(work.graph.model)
        model, self._ranges = _as_it_runs(model, steps)
        wanted = [*self._trained, *self._ranges.values]
        self._student = Student(model, self._paths, wanted, setting.loss, work.request.max_ram)
        self.stopped = False
        """Whether the user has stopped the last training, whose weights are then as they were at that time."""
        original = {path: work.graph.values(path) for path in (*self._trained, *self._fixed)}
        original |= {path: one.values() for path, one in self._ranges.stored(steps).items()}
        teacher, augment = work.origin.graph.model, _augment(work, data)
        first = next(cut(next(iter(data)), setting.batch if any_batch(teacher) else 0))  # no more memory than an update
        if augment and not any(map(is_images, first.feeds.values())):
            raise OnnxoptError(f"{work.name}: --augment changes images, and no input has any (floats [n, channels, "
                               "height, width] or [n, height, width, channels]); leave it out")  # fmt: skip
        starts, self.frozen = self._student.survey(first.feeds, original)
        if not self.frozen.keys() < set(wanted):
            raise OnnxoptError(f"{work.name}: no weight can be tuned: {next(iter(self.frozen.values()), 'it has none')}"
                               "; leave --tune out")  # fmt: skip
        if work.request.tune_labels:
            self._require_labels(first, starts)
        observed = [start.name for start in starts]
        kinds = (False, True) if setting.blends else (False,)
        self._lessons = Lessons(data, teacher, observed, setting.batch, kinds, augment)
        self._held = Lessons(held, teacher, observed, setting.batch, (True,))  # the teacher knows none of them by heart
        few = [self._lessons.lesson(index) for index in range(min(_POWER, len(self._lessons)))]
        setting.loss.learn(starts, sum(one.samples for one in few), [one.wanted for one in few])
        if setting.budget.is_timed:
            begun = time.monotonic()
            for one in few:
                self._student.gradient(one, original)
            passed = (time.monotonic() - begun) * len(self._lessons) / len(few)
            rounds = setting.budget.rounds_of(len(self._lessons), passed)
            setting.budget.take(setting.checkpoints.same("rounds", rounds))

    def _require_labels(self, batch: Batch, starts: Sequence[Start]) -> None:
        """Raises OnnxoptError if the data has no labels, or no output has scores for them."""
        labels = batch.labels
        if labels is None or not any(self._setting.loss.takes(start, labels) for start in starts):
            found = "the data has no labels" if labels is None else f"found {labels.dtype} {list(labels.shape)}"
            raise OnnxoptError(f"{self._work.name}: --tune-labels needs a class for each sample, and an output of "
                               f"scores [samples, classes]: {found}; leave it out")  # fmt: skip

    @abstractmethod
    def tune(self, at: float, size: int | None, advance: Advance) -> tuple[Workspace, Plan]:
        """Tunes at a slope, or at a strength of a recipe.

        Arguments:
            size: of the file, at most, in bytes; None where the slope decides on it.
            advance: told what is being done.

        Returns the workspace with the values, and its plan.
        """

    @abstractmethod
    def forget(self) -> None:
        """Lets the next round begin where the last one did."""

    def distance(self, work: Workspace, plan: Plan) -> float:
        """Of the outputs of a plan's file from the original's, on samples that are held back; see `Loss`."""
        values = {path: one.values() for path, one in self._known(work, plan).items()}
        lessons = [self._held.lesson(index) for index in range(len(self._held))]
        total = sum(self._student.gradient(one, values)[0] * one.samples for one in lessons)
        return total / sum(one.samples for one in lessons)

    @property
    def doubt(self) -> float:
        """The share of a distance that chance makes: one in the root of the number of samples held back."""
        return float(self._setting.parts.validation.count() ** -0.5)

    @property
    def updates(self) -> int:
        """Of a pass over the data."""
        return len(self._lessons)

    @property
    def layers(self) -> int:
        """Weights that are trained, without biases."""
        return max(1, sum(self._work.graph.values(path).ndim > 1 for path in self._trained))

    @property
    def _paths(self) -> list[str]:
        return [*self._trained, *self._fixed, *self._ranges.values]

    def _known(self, work: Workspace, plan: Plan) -> dict[str, Encoding]:
        """How a plan stores the weights, and the scales of rounded values."""
        built, graph = work.build(plan), work.graph
        stored = {**built.encodings, **built.grids, **self._ranges.stored(plan.steps)}
        return {path: stored[path] if path in stored else Raw(graph.values(path)) for path in self._paths}

    def _tuned(self, plan: Plan, values: Mapping[str, Encoding]) -> tuple[Workspace, Plan]:
        """The workspace with trained values, and the plan with them."""
        weights = {path: one for path, one in values.items() if path not in self._ranges.values}
        return self._work.with_tuned(weights), self._ranges.planned(planned(plan, weights), values)

    def _train(self, plan: Plan, weights: Weights, fixed: Mapping[str, Array], price: Price, advance: Advance) -> None:
        """Trains weights for a part of the budget. The plan is that of the file with these weights.

        Once the user has stopped a training, the next ones of the round do nothing.
        """
        if self.stopped:
            return
        checkpoint, begun = self._setting.checkpoints.next(), time.monotonic()
        over = self._setting.budget.next_training(len(self._lessons), checkpoint.seconds)
        course = Course(over, checkpoint)
        try:
            for one in train(self._student, self._lessons, weights, fixed, price, course):
                found = self._measured(one, plan, weights)
                passed = checkpoint.seconds + time.monotonic() - begun
                left = duration(passed * (1 - one.share) / one.share)
                self._pause(self._setting.budget.seconds_left(one.share, passed))
                advance(f"pass {one.number}, {one.loss**0.5:.3g} from the original{found}, {left} left")
        except KeyboardInterrupt:
            self.stopped = True

    def _pause(self, seconds: float) -> None:
        """Tells the time left, which shares of phases do not hold."""
        if isinstance(schedule := self._work.request.progress, Schedule):
            schedule.pause(seconds)

    def _measured(self, one: Pass, plan: Plan, weights: Weights) -> str:
        """Measures the file after a pass, and says what was found; seldom where that takes long, but at the end."""
        begun = time.monotonic()
        if begun < self._next and one.share < 1:
            return ""
        work, tuned = self._tuned(plan, weights.stored())
        size, found = work.try_plan(tuned, self._setting.evaluator)
        now = time.monotonic()
        self._next = now + _SELDOM * (now - begun)
        error, drop = (None, None) if found is None else (found.difference, found.drop)
        self.curve.append(Measured(one.number, one.loss**0.5, size, error, drop))
        metric = f"drop {drop:.3g}" if drop is not None else f"noise {error:.3g}" if error is not None else ""
        return f", {size:,} bytes, {metric}"

    def _size(self, plan: Plan, values: Mapping[str, Encoding]) -> int:
        """Of the file with these values, in bytes."""
        work, tuned = self._tuned(plan, values)
        return work.try_plan(tuned, None)[0]


def _augment(work: Workspace, data: Data) -> tuple[Augment, ...]:
    """What the user wants to be done to images, or what is usual for these."""
    if work.request.augment is not None:
        return tuple(map(Augment, work.request.augment))
    if not data.pictures:
        return ()
    work.progress(f"images that train are changed at random, as by --augment {','.join(USUAL)}", 0.9)
    return USUAL


class Quantized(Trainee):
    """The weights that the slope decides on, the scales of values in 8 bits, and the biases, slopes and parameters of
    normalizations that stay floats. Every round begins where the last one that is not forgotten has ended.

    Weights of which inputs look up rows stay as they are untuned, whatever the slope: what is trained makes up for the
    rows that are in the samples alone.
    """

    def __init__(self, work: Workspace, setting: Setting) -> None:
        work.graph.reset()
        overrides = work.request.overrides
        steps, sites = work.plan(1.0, overrides).steps, {site.path for site in work.sites}
        users = {path for path, one in overrides.decided(work.sites).items() if not one.says_nothing}
        floats = dict.fromkeys([*biases(work), *parameters(work)])
        self._floats = [path for path in floats if path not in steps and path not in users]
        self._looked_up = sorted(tables(work) & steps.keys() - users)
        left = {*users, *self._looked_up}
        slopes = [path for path, step in steps.items() if path in sites and path not in left and _is_slopes(step)]
        fixed = [path for path in steps if path in sites and path not in slopes]
        self._most = {path: _most(steps[path]) for path in slopes}
        self._before: Mapping[str, Array] = {}
        self._values: Mapping[str, Array] = {}
        """What the last round has found, by path, and before it what it began with."""
        super().__init__(work, setting, [*slopes, *self._floats], fixed, steps)
        self.frozen |= dict.fromkeys(self._looked_up, "inputs look up its rows, and samples few of them")

    def tune(self, at: float, size: int | None, advance: Advance) -> tuple[Workspace, Plan]:
        """See `Trainee.tune`."""
        advance("quantizing")
        graph, plan = self._work.graph, self._plan(at)
        known = self._known(self._work, plan)
        trained = [path for path in self._trained if self._trains(path, known[path])]
        scales = [path for path in self._ranges.values if path not in self.frozen]
        start = {path: graph.values(path) for path in trained} | {path: known[path].values() for path in scales}
        most = {path: self._most.get(path, 0) for path in trained}
        kinds = [Weight.of(path, known[path], most=most[path], fixed=most[path] > 0) for path in trained]
        kinds += [self._ranges.weight(path, known[path]) for path in scales]
        weights = Weights(kinds, {**start, **self._values}, near=not self._values)
        fixed = {path: one.values() for path, one in known.items() if path not in start}

        def measured() -> int:
            return self._size(plan, weights.stored())

        self._train(plan, weights, fixed, Price(at, size, measured), advance)
        if size is not None:
            cut_to(size, weights, measured)
        self._before, self._values = self._values, weights.values()
        return self._tuned(plan, weights.stored())

    def forget(self) -> None:
        """See `Trainee.forget`."""
        self._values = self._before

    def _plan(self, at: float) -> Plan:
        plan = self._work.plan(at, self._work.request.overrides)
        if not self._looked_up:
            return plan
        untuned = self._work.plan(self._setting.slope, self._work.request.overrides).steps
        return replace(plan, steps={**plan.steps, **{path: untuned[path] for path in self._looked_up}})

    def _trains(self, path: str, stored: Encoding) -> bool:
        if path in self.frozen:
            return False
        return path in self._floats or isinstance(stored, Affine)  # a weight of zeros, say, stays as it came


def planned(plan: Plan, values: Mapping[str, Encoding]) -> Plan:
    """The plan whose weights have these values; where a step does not say so yet, its result is tuned."""
    steps = {path: _then_tuned(step) if path in values else step for path, step in plan.steps.items()}
    return replace(plan, steps=steps, values=digest(values))


def _then_tuned(step: Step) -> Step:
    tuned = Tuned().step()
    if tuned in step:
        return step
    if step.then is None or step.then.name == Integers.name:  # which says how the result is run
        return Step(step.name, step.args, Step(tuned.name, (), step.then))
    return Step(step.name, step.args, _then_tuned(step.then))


def _is_slopes(step: Step) -> bool:
    """Whether a slope alone decides, of a weight that is floats or int8 at run time."""
    return step.name == Feedback.name and (
        step.then is None or (step.then.name == Integers.name and not step.then.then)
    )


def _most(step: Step) -> int:
    """Largest magnitude of a step's integers; 0: any."""
    bits = Feedback.from_step(Step(step.name, step.args)).max_bits
    return 2 ** (bits - 1) - 1 if bits else 0


def _as_it_runs(model: onnx.ModelProto, steps: Mapping[str, Step]) -> tuple[onnx.ModelProto, Ranges]:
    """The model that rounds values as these steps do. A value that only some nodes read in integers is rounded for all,
    but by its range in each run only for the products."""
    ranges, integers = Ranges.of(model, steps), [path for path, step in steps.items() if Integers().step() in step]
    dynamic_int8.round_inputs(model, [value for value, step in steps.items() if is_dynamic(step)], integers)
    prelu_as_convs(model, {value for value, step in steps.items() if is_for_value(step) and is_depthwise(step)})
    return ranges.rounded(model, steps), ranges
