"""The search again, with nodes that run in integers: where that saves time, or wherever it is possible.

What rounding a value costs in noise, and what a node takes as floats and as integers, is measured one by one
(`rounding`, the runtime's profile); which nodes run in integers is then a minimum cut (`placement`), and what the whole
model gains is measured in turns.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf, sqrt
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxopt.build.workspace import Workspace
from onnxopt.calibration.activation_noise import Rounded, measure
from onnxopt.calibration.chunks import one_sample
from onnxopt.data import Array
from onnxopt.errors import OnnxoptError
from onnxopt.graph import FusedOp, QdqSupport, QuantParams, fused_ops, is_quantized
from onnxopt.measure.benchmark import SpeedRatio, milliseconds, time_by_node, time_ratios
from onnxopt.results.result import Integers, Placed
from onnxopt.search.allocation import Goal
from onnxopt.search.contract_search import ContractSearch
from onnxopt.search.slope import Trial
from onnxopt.spec.contract import DEFAULT_ERROR, Contract
from onnxopt.spec.plan import Plan, Step
from onnxopt.spec.progress import Progress
from onnxopt.spec.target import Target
from onnxopt.strategies.min_cut import Edge, MinCutPartitioner, NodeCost, Placement

_SHARES = (0.7, 0.35, 0.1)
"""Of the noise that the contract allows, what rounded values may make; the rest is for the weights. Where the contract
is missed with the first, the next."""
_QUIETER = 0.5
"""Of the noise that a drop allows, in power, for speed, on images that the model was trained on: these flatter, and the
rest would only buy bytes, which are not what was asked for."""
_SECONDS = 60.0
"""That two models are compared for at most; some 30 do where nothing else runs on the machine."""
_DEARER = (1.0, 3.0, 10.0)
"""Times what QuantizeLinear and DequantizeLinear take alone, as the price of a conversion."""
_LOUDER = 1.5
"""Times the noise of a file of the size that is asked for, what it may have with rounded values, too."""
_WORTH = 0.9
"""Of a model's time: what saves less is not worth rounding values, which inputs unlike the data may exceed."""
_NEAR, _RACERS = 1.1, 4
"""Times the fastest placement's time, as timed in this process, within which others are compared with it in fresh ones:
where memory happens to lie makes so much. And how many are compared at most."""
_ELEMENTS = 2**18
"""Of a value whose conversion is timed."""


@dataclass(frozen=True, slots=True)
class Found:
    """What is to be written."""

    tuner: ContractSearch
    best: Trial
    integers: Integers

    def attempts(self) -> Iterator[Found]:
        """What to write, if anything; then with half the drop, for where the finished file misses it."""
        if not self.integers.kept:
            return
        yield self
        careful = self.tuner.more_careful()
        if careful:
            yield replace(self, best=careful, integers=replace(self.integers, trial=careful))


@contextmanager
def placed(tuner: ContractSearch, best: Trial, goal: Goal | None, target: Target, bits: int, progress: Progress
           ) -> Iterator[Found]:  # fmt: skip
    """What is to be written where nodes may run in integers; it is there until the context ends.

    Arguments:
        tuner: has searched without integers.
        best: what it kept.
        goal: what is to be saved; without one, all that can run in integers does.
        bits: of values between nodes, 8 or 16.
        progress: told what is being done, and the share of it.
    """
    other = tuner.fork({}, best.slope, lambda what, share: progress(f"in integers: {what}", share))
    try:
        yield _Search(tuner, other, best, goal, target, bits, progress).run()
    except BaseException:
        other.engine.close(keep=True)
        raise
    other.engine.close(keep=False)


class _Search:
    """One model's."""

    def __init__(
        self,
        tuner: ContractSearch,
        other: ContractSearch,
        best: Trial,
        goal: Goal | None,
        target: Target,
        bits: int,
        progress: Progress,
    ) -> None:
        self._tuner, self._other, self._best, self._goal = tuner, other, best, goal
        self._target, self._progress = target, progress
        self._type = target.activations if bits == 8 else target.activations.replace("8", "16")
        self._units: list[FusedOp] = []
        self._rounded: dict[str, Rounded] = {}
        self._works: list[NodeCost] = []
        self._time: SpeedRatio | None = None

    @property
    def _engine(self) -> Workspace:
        return self._other.engine

    @property
    def _share(self) -> float:
        """Of the noise that the contract allows, in power, what may be made."""
        flattered = self._tuner.memorised and self._tuner.contract.max_drop is not None
        return _QUIETER if self._goal is Goal.SPEED and flattered else 1.0

    def run(self) -> Found:
        """The fastest that meets the contract, or the reason why there is none."""
        calibration = self._tuner.calibration
        if calibration is None:
            return self._without("the model does not run, so nothing is known of its values")
        if is_quantized(self._engine.graph.model):
            return self._without("it has integers already, which are kept as they are")
        try:
            changed = self._engine.modernise()
        except OnnxoptError as error:
            return self._without(str(error))
        undecided = self._tuner.undecided
        changed |= self._engine.equalize(calibration, lambda one: {one.first, one.second} <= undecided)
        if changed or self._tuner.chained:
            self._other.recalibrate()
        graph = self._engine.graph
        _name(graph.model)
        self._units = [
            replace(unit, kind=QdqSupport.NONE) if unit.weight is not None and unit.weight not in undecided else unit
            for unit in fused_ops(graph.model)
        ]
        self._sample: Mapping[str, Array] = one_sample(graph.model, calibration).feeds
        values = self._values()
        if not values:
            return self._without("no node can run in integers")

        def advance(share: float) -> None:
            self._progress("listening to rounded values", 0.3 * share)

        self._rounded, together = measure(graph.model, values, calibration, self._type, advance)
        return self._placed(max(together, 1e-3))

    def _values(self) -> list[str]:
        """That have grids of their own: what units compute with or give, and no unit only moves."""
        usable = [unit for unit in self._units if unit.kind is not QdqSupport.NONE]
        moved = {unit.output for unit in usable if unit.kind is QdqSupport.PASSTHROUGH}
        names = dict.fromkeys(name for unit in usable for name in (*unit.inputs, unit.output))
        return [name for name in names if name not in moved]

    def _root(self, value: str) -> str:
        """The value that this one is a rearrangement of."""
        makers = {unit.output: unit for unit in self._units if unit.kind is QdqSupport.PASSTHROUGH}
        while value in makers:
            value = makers[value].inputs[0]
        return value

    def _placed(self, together: float) -> Found:
        placer, wires = self._placer(together)
        if self._goal is None:
            return self._tried(placer.everything, wires) or self._without("the contract cannot be met in integers")
        self._progress("choosing nodes", 0.38)
        reason = "no node runs faster in integers"
        allowed, shares = self._allowed()
        seen = set[frozenset[int]]()
        for share in shares:
            choices = [one for one in self._fast(placer, wires, allowed * share) if one.integers not in seen]
            if not choices:
                continue
            seen.update(one.integers for one in choices)
            placement, self._time = self._compared(choices, wires)
            if not (self._time.significant and self._time.ratio < _WORTH):  # no faster with less noise either
                return self._without(f"the model takes {self._time.ratio:.3f}x the time in integers "
                                     f"({self._time.low:.3f} to {self._time.high:.3f})")  # fmt: skip
            found = self._tried(placement, wires)
            if found is None:
                reason = "the contract cannot be met in integers"
            elif self._goal is Goal.BALANCED and found.best.size / self._best.size + self._time.ratio >= 2:
                reason = f"the file would have {found.best.size} bytes, without integers it has {self._best.size}"
            else:
                return found
        return self._without(reason)

    def _allowed(self) -> tuple[float, tuple[float, ...]]:
        """Noise in power, and what shares of it rounded values may make, one after the other.

        Where the contract is one for bytes, outputs may be louder than with the weights alone; values may always make
        what is allowed where nothing is asked for.
        """
        if self._best.error is None:
            return max(self._tuner.error(self._best) ** 2 * (_LOUDER**2 - 1), DEFAULT_ERROR**2), (1.0,)
        return self._best.error**2 * self._share, _SHARES

    def _fast(self, placer: MinCutPartitioner, wires: list[str], noise: float) -> list[Placement]:
        """Of placements that make no more noise than this, those of least time, timed as whole models; none where the
        model as it was is faster.

        What a conversion costs is not known to the cut as it is: the runtime puts transpositions beside it, or none.
        """
        found = [one for times in _DEARER for one in placer.dearer(times).choices(noise)]
        options = {one.integers: one for one in (*found, placer.everything) if one.noise <= noise and one.integers}
        choices = list(options.values())
        if not choices:
            return []
        *times, floats = milliseconds([*(self._plain(one, wires) for one in choices), self._floats()], self._sample)
        fastest = min(*times, floats)
        order = sorted(range(len(choices)), key=lambda i: times[i])
        return [choices[i] for i in order[:_RACERS] if times[i] <= fastest * _NEAR]

    def _tried(self, placement: Placement, wires: list[str]) -> Found | None:
        """The search for the weights' slope; None where the contract is missed."""
        self._place(placement, wires)
        self._other.reset(self._best.slope)
        asked = self._other.contract
        if self._share < 1 and self._best.error:
            self._other.contract = Contract(error=self._best.error * sqrt(self._share))
        best, met = self._other.run()
        self._other.contract = asked
        size = self._engine.source.size
        if not met or best.size >= size:
            return None
        return Found(self._other, best, self._result(placement, best, ""))

    def _place(self, placement: Placement, wires: list[str]) -> None:
        inside = [self._units[i] for i in sorted(placement.integers)]
        weights = [unit.weight for unit in inside if unit.weight is not None]
        biases = [unit.bias for unit in inside if unit.bias is not None]
        self._engine.place(self._pairs(placement, wires), weights, biases, self._target.bits)

    def _pairs(self, placement: Placement, wires: list[str]) -> dict[str, QuantParams]:
        return {wires[j]: self._rounded[self._root(wires[j])].pair for j in sorted(placement.rounded)}

    def _without(self, reason: str) -> Found:
        """The model as it was."""
        return Found(self._tuner, self._best, self._result(None, None, reason))

    # ---- what things take ------------------------------------------------------------------------------------------

    def _placer(self, together: float) -> tuple[MinCutPartitioner, list[str]]:
        """Costs of units and of the values between them; `together` is how the noises add up."""
        makers = {unit.output: i for i, unit in enumerate(self._units)}
        readers: dict[str, list[int]] = {}
        for i, unit in enumerate(self._units):
            for name in unit.inputs:
                readers.setdefault(name, []).append(i)
        outputs = {value.name for value in self._engine.graph.model.graph.output}
        names = [name for name in dict.fromkeys((*readers, *makers)) if self._root(name) in self._rounded]
        convert = self._conversion() if self._goal else (0.0, 0.0)
        wires = []
        for name in names:
            known, maker = self._rounded[self._root(name)], makers.get(name)
            kind = None if maker is None else self._units[maker].kind
            wires.append(Edge(
                maker, tuple(readers.get(name, ())), name in outputs, known.noise * together,
                known.elements * convert[0], known.elements * convert[1],
                kind is QdqSupport.FLOAT_OUTPUT, kind is QdqSupport.PASSTHROUGH,
            ))  # fmt: skip
        able = [unit.kind is not QdqSupport.NONE and self._known(unit) for unit in self._units]
        if self._goal is None:
            self._works = [NodeCost(1.0, 0.0 if one else inf) for one in able]
        else:
            self._works = self._timed(able, wires, names)
        return MinCutPartitioner(self._works, wires), names

    def _known(self, unit: FusedOp) -> bool:
        return all(self._root(name) in self._rounded for name in (*unit.inputs, unit.output))

    def _timed(self, able: list[bool], wires: list[Edge], names: list[str]) -> list[NodeCost]:
        """Milliseconds of units, from the runtime's profiles of the model in floats and in integers."""
        self._progress("timing nodes as floats and as integers", 0.35)
        whole = MinCutPartitioner([NodeCost(1.0, 0.0 if one else inf) for one in able], wires).everything
        floats, integers = (self._by_unit(model) for model in (self._plain(None, names), self._plain(whole, names)))
        return [
            NodeCost(floats.get(i, 0.0), integers.get(i, 0.0) if one else inf) for i, one in enumerate(able)
        ]  # fmt: skip

    def _plain(self, placement: Placement | None, wires: list[str]) -> bytes:
        """The model with weights of no particular values, for their time does not hang on these."""
        steps: dict[str, Step] = {}
        if placement is not None:
            grid = Step("fixedpoint", (("bits", 7),), Step("integers"))
            weights = [unit.weight for i in sorted(placement.integers) if (unit := self._units[i]).weight is not None]
            steps = {weight: grid for weight in weights if weight is not None}
            kind = Target.of(None).activations  # times are this machine's, and so must the kernels be
            steps |= {
                v: QuantParams.over(*pair.reach, kind).step() for v, pair in self._pairs(placement, wires).items()
            }
        return self._engine.to_plain_model(Plan(self._engine.source.sha256, steps))

    def _floats(self) -> bytes:
        """The model as it was."""
        return self._tuner.engine.to_plain_model(Plan(self._engine.source.sha256, {}))

    def _by_unit(self, model: bytes) -> dict[int, float]:
        of = {unit.name: i for i, unit in enumerate(self._units)}
        of |= {unit.output: i for i, unit in enumerate(self._units)}
        graph = self._engine.graph.model.graph
        for i, unit in enumerate(self._units):  # the values that a unit makes on its way, too
            of.update(dict.fromkeys(graph.node[unit.first].output, i))
        found: dict[int, float] = {}
        for node, ms in time_by_node(model, self._sample).items():
            name = re.sub(r"(_nchwc|_token_\d+|@float|@\d)+$", "", node.removeprefix("fused "))
            if name in of:
                found[of[name]] = found.get(of[name], 0.0) + ms
        return found

    def _conversion(self) -> tuple[float, float]:
        """Milliseconds of an element made an integer, and made a float again."""
        x = np.linspace(-1, 1, _ELEMENTS, dtype=np.float32)[None]
        there, back = (_conversion(op, self._type) for op in ("QuantizeLinear", "DequantizeLinear"))
        integers = np.zeros(x.shape, self._type)
        (first,), (second,) = milliseconds([there], {"x": x}), milliseconds([back], {"x": integers})
        return first / _ELEMENTS, second / _ELEMENTS

    def _compared(self, choices: list[Placement], wires: list[str]) -> tuple[Placement, SpeedRatio]:
        """The fastest of some, and its time as a whole model against the model as it was."""

        def advance(share: float) -> None:
            self._progress("running in turns, in integers and in floats", 0.4 + 0.1 * share)

        with tempfile.TemporaryDirectory() as folder:
            floats, *paths = (Path(folder) / f"{i}.onnx" for i in range(len(choices) + 1))
            floats.write_bytes(self._floats())
            for path, placement in zip(paths, choices, strict=True):
                path.write_bytes(self._plain(placement, wires))
            found = time_ratios(paths, floats, [dict(self._sample)], _SECONDS, advance)
        placement, fastest = min(zip(choices, found, strict=True), key=lambda pair: pair[1].ratio)
        return placement, replace(fastest, path="in integers", against="in floats")

    def _result(self, placement: Placement | None, trial: Trial | None, reason: str) -> Integers:
        inside = placement.integers if placement else frozenset()
        layers = []
        for i, unit in enumerate(self._units):
            if unit.kind is QdqSupport.NONE and unit.weight is None and unit.op not in ("Conv", "Gemm", "MatMul"):
                continue
            known = self._rounded.get(self._root(unit.output)) if self._rounded else None
            work = self._works[i] if self._works and self._goal else None
            layers.append(Placed(
                unit.name, unit.op, unit.weight, i in inside,
                work.floats if work else None, work.integers if work and work.integers < inf else None,
                sqrt(known.noise) if known else None, known.method if known else "",
            ))  # fmt: skip
        return Integers(
            str(self._goal or ""), self._target.name, self._type, trial is not None, reason, self._time, trial,
            tuple(layers),
        )  # fmt: skip


def _name(model: onnx.ModelProto) -> None:
    """Nodes get names of their own where they have none: profiles call them by that."""
    taken = set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{index}"
        taken.add(node.name)


def _conversion(op: str, kind: str) -> bytes:
    """A model of one QuantizeLinear or DequantizeLinear."""
    integer = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    types = (TensorProto.FLOAT, integer) if op == "QuantizeLinear" else (integer, TensorProto.FLOAT)
    domain = "" if kind.endswith("8") else "com.microsoft"
    x, y = (helper.make_tensor_value_info(name, one, ["n", _ELEMENTS]) for name, one in zip("xy", types, strict=True))
    scale, zero = np.asarray(0.01, np.float32), np.zeros((), kind)
    grid = [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")]
    graph = helper.make_graph([helper.make_node(op, ["x", "s", "z"], ["y"], domain=domain)], "one", [x], [y], grid)
    opsets = [helper.make_opsetid("", 13), helper.make_opsetid("com.microsoft", 1)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
