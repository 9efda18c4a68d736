"""INT8 execution: inserts QDQ (QuantizeLinear/DequantizeLinear) pairs around nodes, where that saves time or
everywhere.

The noise of rounding each value is measured (`calibration.activation_noise`), and so is the time of each node in float
and in INT8 (the runtime's profile). A minimum cut (`min_cut`) then selects the INT8 nodes, and a race measures what the
whole model gains.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf, sqrt

from onnxopt.build.decisions import INT32
from onnxopt.build.workspace import Workspace
from onnxopt.calibration.activation_noise import Rounded, measure
from onnxopt.errors import OnnxoptError
from onnxopt.graph import FusedOp, QdqSupport, QuantParams, fused_ops, is_quantized, own_copies, step_of_value
from onnxopt.measure.clock import Clock
from onnxopt.passes.quantise.integers import Integers
from onnxopt.request import Request
from onnxopt.results.strategy import Column, LayerOutcome
from onnxopt.spec.contract import DEFAULT_ERROR
from onnxopt.spec.goal import Goal
from onnxopt.spec.plan import Step
from onnxopt.spec.target import Target
from onnxopt.strategies.base import Outcome, Proposal, Proposals, Refused, Strategy, Variant
from onnxopt.strategies.baseline import Baseline
from onnxopt.strategies.min_cut import Edge, MinCutPartitioner, NodeCost, Placement
from onnxopt.strategies.node_times import conversion_ms, ms_by_op

_SHARES = (0.7, 0.35, 0.1)
"""Shares of the allowed noise power for rounded activations; weights get the rest. If the contract is missed with the
first share, the next one is tried."""
_MEMORISED = 0.5
"""Share of the noise power used for `--for speed` under a max drop if the model has memorised the data. Memorised data
understates the drop, and spending the rest would only save bytes, which is not the goal."""
_CONVERSION_COSTS = (1.0, 3.0, 10.0)
"""Conversion costs that are tried, as multiples of the time that QuantizeLinear and DequantizeLinear take alone."""
_EXTRA_NOISE = 1.5
"""Output noise allowed with rounded activations, relative to weight quantization alone, if the contract bounds the
size."""
_NEAR, _RACERS = 1.1, 4
"""Placements within this factor of the fastest in-process time are also raced in fresh processes, since memory layout
alone changes times that much; and the largest number of placements to race."""
_SLOWEST, _FEW = 8, 0.9
"""Number of slowest layers, and the share of the model's time that they take if a few layers dominate it."""


class Int8(Strategy):
    """Proposes the fastest placements within the noise budget, then placements with less noise."""

    name = "int8"
    title = "INT8 execution (QDQ)"
    phrase = "in INT8"
    order = 10
    goals = frozenset({Goal.SPEED, Goal.BALANCED})
    worth = 0.9
    """A smaller saving does not justify activation ranges that unfamiliar inputs may exceed."""
    columns = (
        Column("path", "Node", "The node and the activation function fused with it"),
        Column("op", "Operator", "Its type"),
        Column("ms", "ms", "Milliseconds in the whole model, in float and in INT8"),
        Column("noise", "Noise", "Noise over signal in the model's outputs if only this node's output is rounded"),
        Column("method", "Range", "Method that chose the range of the node's output"),
    )

    def is_wanted(self, request: Request) -> bool:
        """Whether the goal includes time, or the user asks for INT8 explicitly."""
        return request.int8

    def about(self, base: Baseline, layers: tuple[LayerOutcome, ...]) -> str:
        """What was requested, and how many nodes of each type run in INT8."""
        kind, request = base.request.kind, base.request
        where = "where that saves time on this machine" if request.wanted else "wherever they can"
        counts = Counter(row["op"] for row in layers if row["accepted"])
        running = ", ".join(f"{count} {op}" for op, count in counts.most_common())
        text = f"nodes run in INT8 {where}, with {_type(request)} activations, for {kind.name} kernels."
        return f"{text} In INT8: {running}." if running else text

    def proposals(self, base: Baseline, clock: Clock) -> Proposals:
        """Proposes INT8 placements."""
        if is_quantized(base.work.graph.model):
            return Refused("it is quantized already, and stays as it is")
        try:
            work = base.work.ready_for_int8(lambda one: {one.first, one.second} <= base.undecided)
        except OnnxoptError as error:
            return Refused(str(error))
        model = _Model.of(base, work)
        if not model.values:
            return Refused("no node can run in INT8")
        model = model.measured(clock)
        if base.request.wanted is None:
            everything = model.partitioner.everything
            lost = yield model.proposal([everything], timed=False)
            return Refused(lost.reason, model.rows(None))
        return (yield from self._fastest(base, model, clock))

    def _fastest(self, base: Baseline, model: _Model, clock: Clock) -> Proposals:
        """Proposes placements that save time, with less noise each time."""
        reason, time = "no node runs faster in INT8", None
        allowed, shares = _allowed(base)
        seen = set[frozenset[int]]()
        for share in shares:
            choices = [one for one in model.fast(clock, allowed * share) if one.integers not in seen]
            if not choices:
                continue
            seen.update(one.integers for one in choices)
            lost = yield model.proposal(choices, timed=True)
            reason, time = lost.reason, lost.time
            if lost.searched is None:  # placements with less noise are not faster either
                break
        return Refused(reason, model.rows(None), time)

    def judge(self, base: Baseline, outcome: Outcome) -> Outcome:
        """With a balanced goal, the file may not grow by a larger share than the time shrinks."""
        assert outcome.searched is not None
        size, kept = outcome.searched.trial.size, base.kept.trial.size
        if base.request.wanted is Goal.BALANCED and outcome.time and size / kept + outcome.time.ratio >= 2:
            return replace(outcome, reason=f"the file would have {size} bytes, without INT8 it has {kept}")
        return outcome

    def settles(self, base: Baseline, outcome: Outcome) -> bool:
        """For speed, if time is spread over many layers: other strategies would have to time each of them."""
        times = [row["ms_before"] or 0.0 for row in outcome.variant.layers]
        return base.request.wanted is Goal.SPEED and is_spread(times)


def is_spread(times: Sequence[float]) -> bool:
    """Whether a model's time is spread over more nodes than a few, from the time of each."""
    return sum(sorted(times, reverse=True)[:_SLOWEST]) < _FEW * (sum(times) or 1.0)


def _type(request: Request) -> str:
    """Data type of activations."""
    kind = request.kind.activations
    return kind.replace("8", "16") if request.activations == 16 else kind


def _usable_share(base: Baseline) -> float:
    """Share of the allowed noise power that may be used."""
    memorised = base.original.validation.memorised and base.contract.max_drop is not None
    return _MEMORISED if base.request.wanted is Goal.SPEED and memorised else 1.0


def _allowed(base: Baseline) -> tuple[float, tuple[float, ...]]:
    """The noise power, and the shares of it that rounded activations may use, in the order in which they are tried.

    If the contract bounds the size, the noise may exceed that of weight quantization alone, and reaches at least the
    default bound.
    """
    error = base.kept.trial.error
    if error is None:
        return max(base.noise**2 * (_EXTRA_NOISE**2 - 1), DEFAULT_ERROR**2), (1.0,)
    return error**2 * _usable_share(base), _SHARES


@dataclass(frozen=True)
class _Model:
    """The model's nodes, as the runtime fuses them, and the measurements of the values between them."""

    base: Baseline
    work: Workspace
    """The model prepared for INT8."""
    type: str
    """Data type of values between nodes."""
    ops: tuple[FusedOp, ...]
    roots: Mapping[str, str]
    """For each value, the value that it rearranges; otherwise the value itself."""
    values: tuple[str, ...]
    """Values with their own quantization grid: inputs and outputs of nodes that do more than move elements."""
    rounded: Mapping[str, Rounded] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    """Value names of the edges."""
    edges: tuple[Edge, ...] = ()
    costs: tuple[NodeCost, ...] = ()

    @classmethod
    def of(cls, base: Baseline, work: Workspace) -> _Model:
        """The model before any measurement. A node whose weight a user rule decides stays in float."""
        ops = tuple(
            replace(op, kind=QdqSupport.NONE) if op.weight is not None and op.weight not in base.undecided else op
            for op in fused_ops(work.graph.model)
        )
        usable = [op for op in ops if op.kind is not QdqSupport.NONE]
        movers = {op.output: op.inputs[0] for op in ops if op.kind is QdqSupport.PASSTHROUGH}
        moved = {op.output for op in usable if op.kind is QdqSupport.PASSTHROUGH}
        names = dict.fromkeys(name for op in usable for name in (*op.inputs, op.output))
        values = tuple(name for name in names if name not in moved)
        roots = {name: _root(name, movers) for op in ops for name in (*op.inputs, op.output)}
        return cls(base, work, _type(base.request), ops, roots, values)

    def measured(self, clock: Clock) -> _Model:
        """This model with the noise of every value and, if time counts, the time of every node."""
        progress = self.work.progress

        def advance(share: float) -> None:
            progress("measuring the noise of rounded values", 0.3 * share)

        data = self.base.original.parts.calibration
        model, copies = own_copies(self.work.graph.model, self.ops)
        found, together = measure(model, [copies.get(one, one) for one in self.values], data, self.type, advance)
        del model
        rounded = {one: found[name] for one in self.values if (name := copies.get(one, one)) in found}
        known = replace(self, rounded=rounded)
        timed = self.base.request.wanted is not None
        convert = conversion_ms(clock, self.type) if timed else (0.0, 0.0)
        names, edges = known._edges(max(together, 1e-3), convert)
        known = replace(known, names=names, edges=edges)
        able = [op.kind is not QdqSupport.NONE and known._known(op) for op in self.ops]
        if not timed:
            return replace(known, costs=tuple(NodeCost(1.0, 0.0 if one else inf) for one in able))
        progress("timing nodes in float and in INT8", 0.35)
        everything = MinCutPartitioner([NodeCost(1.0, 0.0 if one else inf) for one in able], edges).everything
        floats, int8 = (
            ms_by_op(clock, form.to_plain_model(), self.of_values, self.base.sample)
            for form in (self.work, self.work.with_steps(known._steps(everything, here=True)))
        )
        costs = tuple(NodeCost(floats.get(i, 0.0), int8.get(i, 0.0) if one else inf) for i, one in enumerate(able))
        return replace(known, costs=costs)

    @property
    def of_values(self) -> dict[str, int]:
        """Index of each fused operator, by its name and by the values that it computes, intermediate ones included."""
        of = {op.name: i for i, op in enumerate(self.ops)} | {op.output: i for i, op in enumerate(self.ops)}
        for i, op in enumerate(self.ops):
            of.update(dict.fromkeys(self.work.graph.model.graph.node[op.first].output, i))
        return of

    def _known(self, op: FusedOp) -> bool:
        return all(self.roots[name] in self.rounded for name in (*op.inputs, op.output))

    def _edges(self, together: float, convert: tuple[float, float]) -> tuple[tuple[str, ...], tuple[Edge, ...]]:
        """The values between nodes. `together` scales the sum of their noise; `convert` is the conversion time per
        element."""
        makers = {op.output: i for i, op in enumerate(self.ops)}
        readers: dict[str, list[int]] = {}
        for i, op in enumerate(self.ops):
            for name in op.inputs:
                readers.setdefault(name, []).append(i)
        outputs = {value.name for value in self.work.graph.model.graph.output}
        names = tuple(name for name in dict.fromkeys((*readers, *makers)) if self.roots[name] in self.rounded)
        edges = []
        for name in names:
            known, maker = self.rounded[self.roots[name]], makers.get(name)
            kind = None if maker is None else self.ops[maker].kind
            edges.append(Edge(
                maker, tuple(readers.get(name, ())), name in outputs, known.noise * together,
                known.elements * convert[0], known.elements * convert[1],
                kind is QdqSupport.FLOAT_OUTPUT, kind is QdqSupport.PASSTHROUGH,
            ))  # fmt: skip
        return names, tuple(edges)

    @property
    def partitioner(self) -> MinCutPartitioner:
        """The partitioner that places the nodes."""
        return MinCutPartitioner(self.costs, self.edges)

    def fast(self, clock: Clock, noise: float) -> list[Placement]:
        """The fastest placements within a noise limit, timed as whole models; none if the unchanged model is faster.

        The cut does not know the exact cost of a conversion, since the runtime may add transpositions around it.
        """
        self.work.progress("choosing nodes", 0.38)
        found = [one for times in _CONVERSION_COSTS for one in self.partitioner.dearer(times).choices(noise)]
        everything = self.partitioner.everything
        options = {one.integers: one for one in (*found, everything) if one.noise <= noise and one.integers}
        choices = list(options.values())
        if not choices:
            return []
        forms = [self.work.with_steps(self._steps(one, here=True)) for one in choices]
        models = [form.to_plain_model() for form in (*forms, self.base.work)]
        *times, floats = clock.time_many(models, self.base.sample)
        fastest = min(*times, floats)
        order = sorted(range(len(choices)), key=lambda i: times[i])
        return [choices[i] for i in order[:_RACERS] if times[i] <= fastest * _NEAR]

    def proposal(self, choices: Sequence[Placement], timed: bool) -> Proposal:
        """A proposal of these placements. The race runs on this machine, so it uses the types of this machine's
        kernels."""
        variants = tuple(
            Variant(self._steps(one), self.rows(one), self._steps(one, here=True)) for one in choices
        )  # fmt: skip
        return Proposal(variants, self.base.kept.trial.slope, timed, _usable_share(self.base))

    def _steps(self, placement: Placement, here: bool = False) -> dict[str, Step]:
        """The structural steps of a placement. With `here`, they use the types of this machine's kernels."""
        inside = [self.ops[i] for i in sorted(placement.integers)]
        bits = {op.bias: INT32 for op in inside if op.bias is not None}
        bits |= {op.weight: self.base.request.kind.bits for op in inside if op.weight is not None}
        steps = {path: Step(Integers.name, (("bits", most),)) for path, most in bits.items()}
        for j in sorted(placement.rounded):
            pair = self.rounded[self.roots[self.names[j]]].pair
            pair = QuantParams.over(*pair.reach, Target.of(None).activations) if here else pair
            steps[self.names[j]] = pair.step()
        for value in self.work.form.equalised:
            steps[value] = step_of_value(steps.get(value), equalized=True)
        return steps

    def rows(self, placement: Placement | None) -> tuple[LayerOutcome, ...]:
        """Rows of nodes that could run in INT8 and of nodes with weights."""
        inside, rows = placement.integers if placement else frozenset(), list[LayerOutcome]()
        for i, op in enumerate(self.ops):
            if op.kind is QdqSupport.NONE and op.weight is None and op.op not in ("Conv", "Gemm", "MatMul"):
                continue
            known = self.rounded.get(self.roots[op.output])
            cost = self.costs[i] if self.costs and self.base.request.wanted else None
            rows.append({
                "path": op.name, "op": op.op, "weight": op.weight, "accepted": i in inside,
                "reason": "" if i in inside else "stays float",
                "ms_before": cost.floats if cost else None,
                "ms_after": cost.integers if cost and cost.integers < inf else None,
                "noise": sqrt(known.noise) if known else None, "method": known.method if known else "",
            })  # fmt: skip
        return tuple(rows)


def _root(value: str, movers: Mapping[str, str]) -> str:
    while value in movers:
        value = movers[value]
    return value
