"""Gradients of a model's outputs with respect to its weights, by differentiating its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from typing import Any

import numpy as np
import onnx
from onnxruntime import InferenceSession, OrtValue

from onnxopt.data import chosen_session, quiet_session
from onnxopt.encoding import Array
from onnxopt.files.set_aside import elements_of
from onnxopt.graph.autodiff.backward import Backward, constants, cotangent, differentiate, gradient, nodes_of
from onnxopt.graph.autodiff.blocked import with_blocks
from onnxopt.graph.autodiff.sections import Again, above, cut_out, divided, planned
from onnxopt.graph.autodiff.segments import segments
from onnxopt.graph.autodiff.tape import FLOATS, Forward
from onnxopt.graph.inspect.expose import expose, runtime_types
from onnxopt.graph.inspect.observe import observe

_PROBABILITIES = ("Softmax", "LogSoftmax", "Sigmoid")
"""Operators that make probabilities of scores: they are flat where the model is confident."""
_AT_ONCE = 1 << 20
"""Elements of outputs that are looked at together."""
_VIEWS = ("Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear")
"""Operators that are skipped when looking for probabilities."""


@dataclass(frozen=True, slots=True)
class Start:
    """A value at which gradients start."""

    name: str
    shape: tuple[int, ...]
    classes: int | None
    """The axis of scores that count only relative to each other, so that a common shift has no effect; else None."""


class _Memory:
    """A value's memory, for numpy."""

    def __init__(self, value: OrtValue) -> None:
        self.value = value
        """It lives as long as this."""
        self.__array_interface__ = {"version": 3, "shape": tuple(value.shape()), "typestr": np.dtype(np.float32).str,
                                    "data": (value.data_ptr(), False)}  # fmt: skip


def in_place(value: OrtValue) -> Array:
    """The elements of a value, in its memory if they are floats."""
    return np.asarray(_Memory(value)) if value.data_type() == "tensor(float)" else np.asarray(value.numpy())


@dataclass(frozen=True, slots=True)
class _Run:
    """A part of a pass."""

    session: InferenceSession
    takes: list[str]
    gives: list[str]
    is_forward: bool

    def values(self, given: Mapping[str, OrtValue]) -> dict[str, OrtValue]:
        """What it gives, by name."""
        feeds = {name: given[name] for name in self.takes if name in given}
        return dict(zip(self.gives, self.session.run_with_ort_values(self.gives, feeds), strict=True))


@dataclass(frozen=True, slots=True)
class _Pass:
    """The sessions for inputs of one shape."""

    plan: Backward
    starts: list[Start]
    shapes: dict[str, tuple[int, ...]]
    """Of the values that `forward` gives. They may depend on the data, too."""
    forward: list[_Run]
    backward: list[_Run]
    """Run one after the other, with what has to be computed again between."""

    def step(self, index: int, given: dict[str, OrtValue]) -> dict[str, Array]:
        """Does one of the backward runs. Returns gradients by weight, and puts the values that later ones take in the
        place of the `given` ones."""
        run = self.backward[index]
        values = run.values(given)
        later = {name for one in self.backward[index + 1 :] for name in one.takes}
        for name in given.keys() - later:
            del given[name]
        if run.is_forward:
            given.update(values)
            return {}
        # An array in place keeps all values of its run, as a value does: only what is most of them is not copied.
        sizes = {name: prod(value.shape()) for name, value in values.items()}
        most = {name for name, size in sizes.items() if 2 * size > sum(sizes.values())}
        made = {name: in_place(value) if name in most else value.numpy() for name, value in values.items()}
        for name in made.keys() & later:
            given[name] = values[name] if name in most else OrtValue.ortvalue_from_numpy(np.array(made[name]))
        wanted = [(name, gradient(name)) for name in self.plan.weights]
        return {name: made[output] for name, output in wanted if output in made}


class Gradient:
    """Gradients of random projections of a model's outputs, with respect to weights.

    If z are a sample's outputs and v random signs, ``E_v (d(v.z)/dw)^2`` is the power of the noise in z for noise of
    power 1 in the weight's element w (Hutchinson's estimator of the diagonal of J^T J). A weight's error is the same in
    all samples, so the gradient is that of the sum of v.z over the batch. Each sample has its own v, so cross terms
    vanish on average, and the square estimates the power summed over samples. Outputs are the values that `observe`
    finds. If there are several, each counts relative to its own power. A final Softmax, LogSoftmax or Sigmoid is
    skipped: z is its input. For the scores before a Softmax or an ArgMax, v has mean 0 over classes: a common shift
    changes nothing. Positions that are infinite or NaN do not count.

    For each shape of inputs a backward model is built from the rules in this package, and kept until `forget`. If an
    operator has no rule, weights before it have no gradient, not even that of other paths, which would say too little.

    Arguments:
        model: normalised (see `onnxopt.graph.normalise`); it is not changed.
        weights: names of initializers.
        keeps: whether the sessions for the first shape keep the memory of a run; see `chosen_session`.
        room: bytes that the activations of a batch may take. If they would take more, the forward model runs in
            sections, and runs again when the backward model comes to them; see `sections`.
    """

    def __init__(
        self, model: onnx.ModelProto, weights: Sequence[str], keeps: bool = False, room: float = inf
    ) -> None:  # fmt: skip
        self._keeps, self._room, self._model, self._weights = keeps, room, model, list(dict.fromkeys(weights))
        self._nodes = nodes_of(model)
        self._producers = {name: node for node in self._nodes for name in node.outputs if name}
        self._observed = observe(model)
        self._passes: dict[tuple[Any, ...], _Pass | dict[str, str]] = {}
        self.unsupported: dict[str, str] = {}
        """By weight, the reason why the last pass found no gradient of it."""

    def weights(self, feeds: Mapping[str, Array], seed: int) -> tuple[dict[str, Array], float]:
        """Gradients by weight, float32 of its shape, summed over the batch and all uses; and the signal's power.

        From a gradient g and the signal s follows the noise in the outputs, as `output_error` measures it, for
        independent noise of powers p in the weight's elements: ``error^2 = E sum(p g^2) / s``, to first order. To
        average, sum both over batches and seeds. Samples of a batch do not average: their gradients add with random
        signs, so several small batches estimate better than a large one.

        The signal is the outputs' power, summed over samples; with several outputs, each relative to its own power, it
        is the number of samples times the number of outputs. It is 0 if no weight has a gradient.

        `seed` determines the random projections, one for each sample and output. Weights in `unsupported` are absent.
        Raises what ONNX Runtime raises if the model does not run on `feeds`.
        """
        found: dict[str, Array] = {}
        signal = self.weights_in_parts(feeds, seed, found.update)
        return found, signal

    def weights_in_parts(
        self, feeds: Mapping[str, Array], seed: int, each: Callable[[dict[str, Array]], None]
    ) -> float:
        """The same, where `each` gets the gradients of some weights at a time. Returns the signal's power."""
        generator, signal = np.random.default_rng(seed), 0.0

        def projections(starts: Sequence[Start], values: Mapping[str, Array]) -> dict[str, Array]:
            nonlocal signal
            found = {}
            for start in starts:
                v, power = _projection(generator, start, values[start.name])
                if len(starts) > 1:
                    samples = start.shape[0] if start.shape else 1
                    v *= np.float32((samples / power) ** 0.5 if power > 0 else 0)
                    power = samples if power > 0 else 0
                signal += power
                found[start.name] = v
            return found

        given = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        for part in self._pulled_back(given, projections):
            each(part)
            del part  # before the next one is made
        return signal

    def pulled_back(
        self,
        feeds: Mapping[str, OrtValue],
        cotangents: Callable[[Sequence[Start], Mapping[str, Array]], Mapping[str, Array]],
    ) -> dict[str, Array]:
        """Gradients by weight, as for `weights`, of the sum of every start's cotangent times its value.

        Arguments:
            feeds: inputs of the model. A weight that is an input as well as an initializer may be among them.
            cotangents: gives one for each start, float32 of its shape, from the values of all starts.

        Raises as `weights` does; none has a gradient where `cotangents` is not called.
        """
        return {name: array for part in self._pulled_back(feeds, cotangents) for name, array in part.items()}

    def _pulled_back(
        self,
        feeds: Mapping[str, OrtValue],
        cotangents: Callable[[Sequence[Start], Mapping[str, Array]], Mapping[str, Array]],
    ) -> Iterator[dict[str, Array]]:
        """The same in parts."""
        now, values = self._forward(feeds)
        if isinstance(now, dict):
            self.unsupported = now
            return
        self.unsupported = now.plan.unsupported
        found = cotangents(now.starts, {start.name: values[start.name].numpy() for start in now.starts})
        given = {name: values[name] for run in now.backward for name in run.takes if name in values}
        given |= {cotangent(name): OrtValue.ortvalue_from_numpy(found[name]) for name in now.plan.cotangents}
        del values, found
        for index in range(len(now.backward)):
            if part := now.step(index, given):
                yield part

    def forget(self) -> None:
        """Closes the sessions, which hold all weights for each shape of inputs."""
        self._passes.clear()

    def _forward(self, feeds: Mapping[str, OrtValue]) -> tuple[_Pass | dict[str, str], dict[str, OrtValue]]:
        """The sessions for these feeds, or why there are none, and the values that the backward model takes."""
        key = tuple((name, *value.shape()) for name, value in sorted(feeds.items()))
        for build in (key not in self._passes, True):  # with other data, shapes may differ
            if build:
                self._passes[key] = self._build(feeds)
            now, values = self._passes[key], dict(feeds)
            if isinstance(now, dict):
                break
            for run in now.forward:
                values |= run.values(values)
            if all(tuple(values[name].shape()) == shape for name, shape in now.shapes.items()):
                break
        return now, values

    def _build(self, feeds: Mapping[str, OrtValue]) -> _Pass | dict[str, str]:
        """The sessions for inputs of the shapes of `feeds`, or by weight the reason why there are none."""
        try:
            return self._sessions(self._observe(feeds))
        except Exception as error:  # a model that no rule foresaw must not stop its compression
            quiet_session(self._model.SerializeToString()).run_with_ort_values(
                None, feeds
            )  # raises if the feeds are the cause
            return dict.fromkeys(self._weights, str(error))

    def _sessions(self, forward: Forward) -> _Pass | dict[str, str]:
        """The same, from what a run has shown."""
        nodes, starts = self._nodes, self._starts(forward)
        model, plan = differentiate(nodes, forward, [start.name for start in starts], self._weights)
        if not plan.weights:
            return plan.unsupported
        sizes = {gradient(name): 4 * prod(forward.shapes[name]) for name in plan.weights}
        bytes_ = {name: forward.bytes_of(name) for name in forward.types}
        sections = divided(nodes, bytes_, plan.fetched, self._room)
        last, keeps = sections.count - 1, self._keeps and not self._passes and sections.count == 1
        parts = segments(model, plan, sizes, sections)
        del model
        kept, again = planned(nodes, sections, [(last, [one.name for one in starts]),
                                                *((part.section, part.takes) for part in parts)])  # fmt: skip
        forward.constants.clear()  # each session holds all weights
        first = [above(nodes, range(len(nodes)), kept, ())] if kept else []
        first += [again.pop(last)] if last in again else []
        made, backward = [self._part(part, forward, keeps) for part in first], list[_Run]()
        while parts:
            part = parts.pop(0)
            if part.section in again:
                backward.append(self._part(again.pop(part.section), forward, keeps))
            backward.append(_Run(chosen_session(part.model, keeps), part.takes, part.gives, is_forward=False))
        shapes = {name: forward.shapes[name] for run in made for name in run.gives}
        return _Pass(plan, starts, shapes, made, backward)

    def _observe(self, feeds: Mapping[str, OrtValue]) -> Forward:
        """Shapes and types of all values, and the constants among them."""
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer if tensor.name not in feeds}
        arrays = {name: elements_of(tensor) for name, tensor in weights.items()}
        turned = {node.outputs[0]: node for node in self._nodes if node.op == "Transpose" and node.inputs[0] in arrays}
        made = sorted(self._producers.keys() - turned.keys())
        types = {name: kind.tensor_type.elem_type for name, kind in runtime_types(self._model, made).items() if kind}
        known = constants(self._nodes, set(weights)) & types.keys()
        shape_of = {name: f"shape of {name}" for name in types.keys() - known}  # as all values would not fit in memory
        more = [onnx.helper.make_node("Shape", [name], [shape]) for name, shape in shape_of.items()]
        wanted = [*sorted(known), *shape_of.values()]
        session = chosen_session(expose(self._model, wanted, more), measures=True)
        run = {n: v.numpy() for n, v in zip(wanted, session.run_with_ort_values(wanted, dict(feeds)), strict=True)}
        arrays |= {name: run[name] for name in known}
        # Views: the table of words is as large as many layers.
        arrays |= {name: arrays[node.inputs[0]].transpose(node.attr("perm")) for name, node in turned.items()}
        return Forward(
            shapes={name: tuple(value.shape()) for name, value in feeds.items()}
            | {name: tuple(run[shape].tolist()) for name, shape in shape_of.items()}
            | {name: array.shape for name, array in arrays.items()},
            types={name: value.element_type() for name, value in feeds.items()}
            | types
            | {name: tensor.data_type for name, tensor in weights.items()}
            | {name: weights[node.inputs[0]].data_type for name, node in turned.items()},
            constants=arrays,
        )

    def _part(self, part: Again, forward: Forward, keeps: bool) -> _Run:
        """A run of some of the model's nodes."""
        model = with_blocks(cut_out(self._model, part, forward), forward.shapes)
        return _Run(chosen_session(model.SerializeToString(), keeps), part.takes, part.gives, is_forward=True)

    def _starts(self, forward: Forward) -> list[Start]:
        """The observed values, or the scores that they are computed from."""
        found: dict[str, Start] = {}
        for value in self._observed.values:
            name, classes = self._scores(value)
            if forward.types.get(name) in FLOATS and name not in forward.constants:
                found.setdefault(name, Start(name, forward.shapes[name], classes))
        return list(found.values())

    def _scores(self, value: str) -> tuple[str, int | None]:
        """The scores whose probabilities a value holds, and their axis of classes. For any other value, the value."""
        name = value
        while name in self._producers and self._producers[name].op in _VIEWS:
            name = self._producers[name].inputs[0]
        node = self._producers.get(name)
        if node is None or node.op not in _PROBABILITIES:
            return value, self._observed.classes.get(value)
        return node.inputs[0], None if node.op == "Sigmoid" else node.attr("axis", -1 if node.opset >= 13 else 1)


def _projection(generator: np.random.Generator, start: Start, z: Array) -> tuple[Array, float]:
    """Random signs of the shape of z, and the power of z, without what a common shift of scores adds.

    A few rows at a time, as the scores of all words for each token are large.
    """
    axis = None if start.classes is None else start.classes % z.ndim
    in_rows = z.ndim > 1 and axis in (None, z.ndim - 1)
    v, power = np.empty(z.shape, np.float32), 0.0
    shape = (prod(z.shape[:-1]), z.shape[-1]) if in_rows else (1, *z.shape)
    rows, signs, at_once = z.reshape(shape), v.reshape(shape), max(1, _AT_ONCE // max(1, prod(shape[1:])))
    for at in range(0, len(rows), at_once):
        part, own = rows[at : at + at_once].astype(np.float64), signs[at : at + at_once]
        along = axis if axis is None else -1 if in_rows else axis + 1
        own[...] = centred(generator.choice(np.array([-1, 1], np.float32), own.shape), along)
        if not (finite := np.isfinite(part)).all():
            part, own[...] = np.where(finite, part, 0), np.where(finite, own, np.float32(0))
        power += float(np.square(centred(part, along)).sum())
    return v, power


def centred(array: Array, axis: int | None) -> Array:
    """The array less its mean along an axis of classes; the array itself if there is none."""
    return array if axis is None else array - array.mean(axis, keepdims=True, dtype=array.dtype)
