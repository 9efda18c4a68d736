"""Published systems that retrain: a recipe says after which of its steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial

from onnxopt.build.decisions import is_structural
from onnxopt.build.tuned_values import digest
from onnxopt.build.workspace import Workspace
from onnxopt.encoding import Encoding
from onnxopt.passes.quantise.tuned import Tuned
from onnxopt.search.knobs import Knobs
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.recipes import GENTLEST, MIDDLE, STEP, STRONGEST, Recipe
from onnxopt.tuning.floats import biases
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.price import Price
from onnxopt.tuning.trainee import Advance, Setting, Trainee, planned
from onnxopt.tuning.weights import Weights

_TUNED = Tuned().step()
_FILL = 0.998
"""Share of the size that a file may have before its last training, which changes no index, but makes other floats."""
_STEP = STEP**0.25
"""Factor between strengths that are tried for the size."""
_GENTLER = 3
"""Steps of a knob by which a step that is taken again is gentler before: seven tenths of the noise, of 0.01 to 2."""


class Staged(Trainee):
    """All weights of layers, and their biases. Every round begins with the original weights.

    Each training continues with the weights of the one before it, after the steps between them. Floats that pruning has
    made 0 stay so, and elements that share a value go on sharing it.
    """

    def __init__(self, work: Workspace, setting: Setting, recipe: Recipe) -> None:
        self._recipe = recipe
        work.graph.reset()
        decided = work.request.overrides.decided(work.sites)
        users = [path for path, one in decided.items() if not one.says_nothing]
        layers = dict.fromkeys([*work.graph.linears(), *biases(work)])
        steps = recipe_plan(work, recipe, MIDDLE).steps
        super().__init__(work, setting, [path for path in layers if path not in users],
                         [path for path in users if path in steps], {})  # fmt: skip

    def tune(self, at: float, size: int | None, advance: Advance) -> tuple[Workspace, Plan]:
        """See `Trainee.tune`."""
        plan, values = marked_plan(self._work, self._recipe, at, self._fixed), dict[str, Encoding]()
        count = _trainings(plan)
        for stage in range(1, count + 1):
            if values and size is not None:
                plan, at = self._fitting(plan, values, at, size, stage)
            part = _until(plan, stage)
            after = max((" > ".join(one.name for one in step) for step in part.steps.values()), key=len, default="")
            text = f"training {stage} of {count}, after {after}"
            advance(text)
            known = self._known(self._work.with_tuned(values), part)
            trained = [path for path in self._trained if path not in self.frozen]
            start = {path: known[path].values() for path in trained}
            kinds = [Weight.of(path, known[path], path in plan.steps, fixed=True) for path in trained]
            weights = Weights(kinds, start, near=False)
            fixed = {path: one.values() for path, one in known.items() if path not in trained}
            self._train(part, weights, fixed, Price(0.0), partial(_told, advance, text))
            values = weights.stored()
        return self._work.with_tuned(values), planned(plan, values)

    def forget(self) -> None:
        """See `Trainee.forget`. Every round begins where this one did anyway."""

    def _fitting(
        self, plan: Plan, values: dict[str, Encoding], at: float, size: int, training: int
    ) -> tuple[Plan, float]:
        """The plan with the steps since the last training as strong as the size asks for, and that strength: what was
        pruned and then trained has not the bytes of what was pruned only."""
        work, made = self._work.with_tuned(values), digest(values)  # as long as that of the values to come

        def fits(plan: Plan) -> bool:
            return work.try_plan(replace(_untrained(plan, training), values=made), None)[0] <= _FILL * size

        def as_strong(at: float) -> Plan:
            other = marked_plan(self._work, self._recipe, at, self._fixed).steps
            return replace(
                plan, steps={path: _joined(step, other[path], training) for path, step in plan.steps.items()}
            )

        while not fits(plan) and at * _STEP < STRONGEST:
            plan, at = as_strong(at * _STEP), at * _STEP
        while at / _STEP > GENTLEST and fits(gentler := as_strong(at / _STEP)):
            plan, at = gentler, at / _STEP
        return plan, at


def _told(advance: Advance, where: str, what: str) -> None:
    advance(f"{where}: {what}")


def recipe_plan(work: Workspace, recipe: Recipe, at: float) -> Plan:
    """The plan of a recipe at a strength; the user's rules come last."""
    return work.plan(at, Knobs(recipe).rules(at, work.steps_at, work.request.overrides))


def marked_plan(work: Workspace, recipe: Recipe, at: float, fixed: Collection[str] = ()) -> Plan:
    """The same; it says what is tuned, but of `fixed` weights.

    A step that the recipe names twice is taken twice, first gently (iterative pruning: Han et al. 2015, section 3.4).
    """
    most = max(map(recipe.tune.count, recipe.tune), default=1)
    plans = [recipe_plan(work, recipe, at / STEP ** (_GENTLER * gentler)) for gentler in range(most)]
    return replace(plans[0], steps={path: step if path in fixed else _marked([one.steps[path] for one in plans], recipe)
                                    for path, step in plans[0].steps.items()})  # fmt: skip


def trainings(work: Workspace, recipe: Recipe) -> int:
    """How many there are in a round."""
    return _trainings(marked_plan(work, recipe, MIDDLE))


def _trainings(plan: Plan) -> int:
    """One, after structural steps, where no other step is trained after."""
    return max(1, *(list(step).count(_TUNED) for step in plan.steps.values()))


def _marked(steps: Sequence[Step], recipe: Recipe) -> Step:
    """A step with training after those that the recipe names.

    Arguments:
        steps: the same at strengths that decrease.
    """
    if is_structural(steps[0]):
        return steps[0]
    found: list[Step] = []
    for same in zip(*steps, strict=True):
        times = recipe.tune.count(same[0].name)
        found += [one for each in reversed(same[:times]) for one in (each, _TUNED)] or same[:1]
    return _chain(found)


def _until(plan: Plan, training: int) -> Plan:
    """The plan as it is before one of its trainings, counted from 1."""
    return replace(
        plan, steps={path: _chain(list(step)[: _place(step, training)]) for path, step in plan.steps.items()}
    )


def _untrained(plan: Plan, training: int) -> Plan:
    """The whole plan without this training and later ones."""
    return replace(plan, steps={path: _chain([one for place, one in enumerate(step)
                                              if one != _TUNED or place < _place(step, training)])
                                for path, step in plan.steps.items()})  # fmt: skip


def _joined(step: Step, other: Step, training: int) -> Step:
    """A step until the training before this one, then another step, which has the same trainings."""
    return _chain([*list(step)[: _place(step, training - 1)], *list(other)[_place(other, training - 1) :]])


def _place(step: Step, training: int) -> int:
    """Of a training among the steps, counted from 0; their number where there are fewer trainings."""
    places = [place for place, one in enumerate(step) if one == _TUNED]
    if not training:
        return 0
    return places[training - 1] if training <= len(places) else len(list(step))


def _chain(steps: Sequence[Step]) -> Step:
    """Steps that follow each other, at least one."""
    found = None
    for one in reversed(steps):
        found = Step(one.name, one.args, found)
    assert found is not None
    return found
