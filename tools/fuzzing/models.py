"""A random valid model for each seed: a graph that grew, and what makes models of the wild unusual."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import helper

from fuzzing.growing import Array, Growth, Shared, Value, free_names, stock, value_info
from fuzzing.layers import LAYERS
from fuzzing.operators import OPERATORS
from fuzzing.scopes import SCOPES
from fuzzing.unusual import CHANGES, as_inputs

OLDEST, NEWEST = 7, 26
"""Opsets; `NEWEST` is what ONNX Runtime 1.23 to 1.32 runs officially or nearly so."""
BATCHES = 6
"""Of feeds."""
_LEAST_WEIGHTS = 200
"""Elements: with fewer, the file would be a copy of the source."""
_ATTEMPTS = 40
_MOST_TRIES = 60
"""Proposals for one graph."""
_FUNCTIONS_IR = 8


@dataclass(frozen=True, slots=True)
class Input:
    """An input, and how its values are drawn."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    high: int = 0
    """Integers are below this."""

    def draw(self, rng: np.random.Generator) -> Array:
        """Values of one batch."""
        if self.dtype.kind == "f":
            return rng.standard_normal(self.shape).astype(self.dtype)
        return rng.integers(0, self.high, self.shape).astype(self.dtype)


@dataclass(frozen=True, slots=True)
class Case:
    """A model that stock ONNX Runtime runs, and inputs."""

    seed: int
    model: onnx.ModelProto
    feeds: tuple[dict[str, Array], ...]
    external: bool = False
    """Whether its weights stand in a file of their own."""

    def outputs(self) -> list[list[Array]]:
        """What stock ONNX Runtime computes, for each of the feeds. Raises the runtime's errors."""
        session = stock(self.model.SerializeToString())
        return [session.run(None, feeds) for feeds in self.feeds]


def case_of(seed: int) -> Case | None:
    """The model of this seed; None if no attempt gave one, which is rare."""
    for attempt in range(_ATTEMPTS):
        case = _attempt(seed, np.random.default_rng((seed, attempt)))
        if case is not None:
            return case
    return None


def _attempt(seed: int, rng: np.random.Generator) -> Case | None:
    opset = int(rng.integers(OLDEST, NEWEST + 1)) if rng.random() < 0.7 else int(rng.choice([11, 13, 17, 21]))
    least_ir = 3 if opset < 9 else 4
    ir = int(rng.choice([least_ir, max(least_ir, 7), _FUNCTIONS_IR, _FUNCTIONS_IR, 10]))
    g = Growth(Shared(rng, opset, ir, odd=bool(rng.random() < 0.3)))
    inputs = [_input(g) for _ in range(int(rng.choice([1, 1, 1, 2, 2, 3])))]
    feeds = tuple({i.name: i.draw(np.random.default_rng((seed, n))) for i in inputs} for n in range(BATCHES))
    g.values = [Value(name, array) for name, array in feeds[0].items()]
    wanted, tries = g.between(2, 10), 0
    while (len(g.own) < wanted or sum(w.array.size for w in g.weights) < 2 * _LEAST_WEIGHTS) and tries < _MOST_TRIES:
        tries += 1
        kind = rng.random()
        g.one_of(LAYERS if kind < 0.45 else OPERATORS if kind < 0.9 else SCOPES)(g)
    if not g.own:
        return None
    model = _model(g, inputs, free=g.chance(0.5))
    names = {value.name for value in model.graph.input}
    feeds = tuple({name: array for name, array in one.items() if name in names} for one in feeds)
    case = Case(seed, model, feeds, external=g.chance(0.06))
    if not names or not runs(case) or _weights(model) < _LEAST_WEIGHTS:
        return None
    if not runs(_of_other_size(case)):  # it says that it takes batches of any size, which is not true
        case = replace(case, model=_fixed(model, feeds[0]))
    case = replace(case, model=_truthful(case))
    for change in CHANGES:
        altered = onnx.ModelProto()
        altered.CopyFrom(case.model)
        change(g, altered)
        changed = replace(case, model=altered)
        if altered != case.model and runs(changed):
            case = changed
    return case


def runs(case: Case) -> bool:
    """Whether stock ONNX Runtime loads and runs the model on all feeds."""
    try:
        case.outputs()
    except Exception:  # the runtime's own classes
        return False
    return True


def _of_other_size(case: Case) -> Case:
    """The case with feeds of one sample, and of one sample more, where the model leaves the batch open."""
    free = {v.name for v in case.model.graph.input if v.type.tensor_type.shape.dim and _is_free(v)}

    def resized(feeds: dict[str, Array], size: int) -> dict[str, Array]:
        return {name: np.resize(a, (size, *a.shape[1:])) if name in free else a for name, a in feeds.items()}

    first = case.feeds[0]
    largest = max((len(first[name]) for name in free), default=1)
    return replace(case, feeds=(resized(first, 1), resized(first, largest + 1)))


def _truthful(case: Case) -> onnx.ModelProto:
    """The model without the declared shapes of outputs that have another shape on some of the feeds."""
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    runs = case.outputs()
    for index, value in enumerate(model.graph.output):
        if len({np.shape(run[index]) for run in runs}) > 1:
            value.type.tensor_type.ClearField("shape")
    return model


def _is_free(value: onnx.ValueInfoProto) -> bool:
    return not value.type.tensor_type.shape.dim[0].HasField("dim_value")


def _fixed(model: onnx.ModelProto, feeds: dict[str, Array]) -> onnx.ModelProto:
    """The model with inputs of the sizes of `feeds`, and outputs of any size."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        if value.name in feeds:
            value.CopyFrom(value_info(value.name, feeds[value.name], feeds[value.name].shape))
    for value in fixed.graph.output:
        value.type.tensor_type.ClearField("shape")
    return fixed


def _weights(model: onnx.ModelProto) -> int:
    return sum(int(np.prod(t.dims)) for t in _constants(model.graph) if t.data_type in (1, 10, 11))


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _constants(attribute.g)


# ---- the parts of a model --------------------------------------------------------------------------------------------


def _input(g: Growth) -> Input:
    n, k = g.between(2, 4), int(g.one_of((8, 12, 16, 24, 40)))
    side, steps = g.between(6, 10), g.between(3, 7)
    channels = int(g.one_of((1, 3, 3, 4)))
    shapes = ((n, k), (n, k), (n, k), (n, channels, side, side), (n, channels, side, side), (n, steps, k),
              (steps, n, k), (n, 2, 4 * side), (n, side, side, 3), (n, 1, 4, 6, 6), (k,), (1, k),
              (2, n, k))  # fmt: skip
    name = g.name(g.one_of(("x", "input", "input_ids", "mask", "state", "images")))
    kind = g.rng.random()
    if kind < 0.12:
        dtype = np.dtype(g.one_of((np.int64, np.int64, np.int32)))
        return Input(name, g.one_of(((n, steps), (n,), (steps,), (1, steps))), dtype, 2 if g.chance(0.3) else 20)
    if kind < 0.16:
        return Input(name, g.one_of(shapes), np.dtype(g.one_of((np.bool_, np.uint8, np.int8))), 2)
    if kind < 0.19:
        return Input(name, (), np.dtype(np.float32))
    dtype = np.dtype(g.one_of((np.float32,) * 10 + (np.float16, np.float64)))
    return Input(name, g.one_of(shapes), dtype)


def _model(g: Growth, inputs: Sequence[Input], free: bool) -> onnx.ModelProto:
    outputs = _outputs(g)
    batch = g.one_of(("N", "batch", "batch_size", ""))
    declared = []
    for one in inputs:
        shape: list[int | str] = [batch if free and axis == 0 and len(one.shape) > 1 else size
                                  for axis, size in enumerate(one.shape)]  # fmt: skip
        declared.append(_symbolic(one, shape))
    results = [value_info(v.name, v.array, g.one_of((None, _shape(v, free, batch)))) for v in outputs]
    graph = helper.make_graph(_alive(g, outputs), "g", declared, results, g.initializers)
    used = _names_used(graph)
    if g.chance(0.95):
        del graph.input[:]
        graph.input.extend(value for value in declared if value.name in used)
    if g.chance(0.8):
        kept = [tensor for tensor in graph.initializer if tensor.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    model = g.model(graph)
    if g.shared.ir < 4:
        graph.input.extend(as_inputs(graph.initializer))
        model.graph.CopyFrom(graph)
    return model


def _symbolic(one: Input, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(one.name, helper.np_dtype_to_tensor_dtype(one.dtype), shape)


def _shape(value: Value, free: bool, batch: str) -> list[int | str | None]:
    return [(batch or None) if free and axis == 0 else size for axis, size in enumerate(value.array.shape)]


def _outputs(g: Growth) -> list[Value]:
    """One to four: mostly values that nothing reads, the last first."""
    read = {name for node in g.nodes for name in free_names(node)}
    ends = [value for value in reversed(g.own) if value.name not in read]
    others = [value for value in g.own if value.name in read]
    chosen = ends[: g.between(1, 4)] or g.own[-1:]
    if others and g.chance(0.25):
        chosen.append(g.one_of(others))
    return chosen


def _alive(g: Growth, outputs: Sequence[Value]) -> list[onnx.NodeProto]:
    """The nodes that outputs depend on, at times with some that nothing reads."""
    needed, kept = {value.name for value in outputs}, []
    for node in reversed(g.nodes):
        if needed & set(node.output) or g.chance(0.03):
            kept.append(node)
            needed |= free_names(node)
    return kept[::-1]


def _names_used(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in free_names(node)} | {value.name for value in graph.output}
