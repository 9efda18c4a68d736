"""Sensitivities of a model's inner values and weights, by differentiating its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import onnx
from onnx import numpy_helper
from onnxruntime import InferenceSession, OrtValue

from onnxopt.data import quiet_session
from onnxopt.graph.gradient.backward import Backward, constants, cotangent, differentiate, nodes_of, result
from onnxopt.graph.gradient.tape import FLOATS, Forward, Var
from onnxopt.leaf import Array

_SCORES = ("Softmax", "LogSoftmax", "ArgMax", "Sigmoid")
"""What makes probabilities or decisions of scores: flat where a model is sure of itself, where noise still counts."""
_VIEWS = ("Reshape", "Flatten", "Identity", "Squeeze", "Unsqueeze", "Cast", "QuantizeLinear", "DequantizeLinear")
"""What is looked through for such an end."""


_Kind = Literal["power", "positions", "weights"]


@dataclass(frozen=True, slots=True)
class _Start:
    """A value that gradients start from."""

    name: str
    shape: tuple[int, ...]
    classes: int | None
    """The axis of scores that count only in comparison, so that a shift of all of them is nothing; None: no such."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What runs for inputs of one shape."""

    plan: Backward
    starts: list[_Start]
    forward: InferenceSession
    backward: InferenceSession


class Gradient:
    """Gradients of random projections of a model's outputs, with respect to inner values and to weights.

    With z a sample's outputs and v random signs, ``E_v (d(v.z)/dy)^2`` is the power of noise in z for noise of power 1
    on the element y (Hutchinson's estimator of the diagonal of J^T J). A weight has one error in all samples, so its
    gradient is of the sum of v.z over the batch; v is another for each sample, so cross terms vanish on average, and
    its square estimates the power summed over samples. Of scores ``[n, classes]`` the mean over classes
    is taken out of v: what shifts all of them alike changes no decision. Where a model has several outputs, each counts
    relative to its own power. A final Softmax, LogSoftmax, ArgMax or Sigmoid is left out: z is its input.

    A backward model is made (and kept) for each shape of inputs, from the rules in this package; where an operator has
    none, what comes before it gets what reaches it on other paths. All activations of one batch are held, so keep
    batches small.

    Arguments:
        model: normalised (see `onnxopt.graph.normalise`); it is not changed.
        values: names of values in the main graph, say outputs of convolutions.
        axes: by value, its channel axis; where not given, it is axis 1 of what has three dimensions or more and was
            not made by MatMul, else the last.
        weights: names of initializers.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        values: Sequence[str],
        axes: Mapping[str, int] | None = None,
        weights: Sequence[str] = (),
    ) -> None:
        self._model, self._values, self._axes = model, list(dict.fromkeys(values)), dict(axes or {})
        self._weights = list(dict.fromkeys(weights))
        self._nodes = nodes_of(model)
        self._producers = {name: node for node in self._nodes for name in node.outputs if name}
        self._passes: dict[tuple[Any, ...], _Pass | dict[str, str]] = {}
        self.unsupported: dict[str, str] = {}
        """By value or weight, why the last pass found no gradient of it."""

    def power(self, feeds: Mapping[str, Array], seed: int) -> dict[str, Array]:
        """By value, float64[channels]: its squared gradients, summed over the batch and all positions.

        The random projections, one for each sample and output, follow from `seed`. Values in `unsupported` are absent.
        Raises what ONNX Runtime raises where the model does not run on `feeds`.
        """
        found, _ = self._run(feeds, seed, "power")
        return {name: array.astype(np.float64).ravel() for name, array in found.items()}

    def positions(self, feeds: Mapping[str, Array], seed: int) -> dict[str, Array]:
        """By value, float32 of its shape with one channel: its squared gradients, summed over the channels.

        With the same seed these are the gradients that `power` sums over positions.
        """
        return self._run(feeds, seed, "positions")[0]

    def weights(self, feeds: Mapping[str, Array], seed: int) -> tuple[dict[str, Array], float]:
        """By weight, its gradient, float32 of its shape, summed over the batch and all uses; and the signal's power.

        A gradient g over signal s says what noise in the outputs, as `onnxopt.stats.output_error` measures it, comes
        of independent noise of powers p on the weight's elements: ``error^2 = E sum(p g^2) / s``, to first order. To
        average, sum both over batches and seeds. Samples of a batch are not averaged in this sense: their gradients
        meet with random signs, so several small batches estimate better than a large one.

        The signal is the outputs' power, summed over samples; with several outputs, where each counts relative to its
        own, it is the number of samples times that of outputs. It is 0 where no weight has a gradient.

        The random projections are those of `power`. Weights in `unsupported` are absent. Raises what ONNX Runtime
        raises where the model does not run on `feeds`.
        """
        return self._run(feeds, seed, "weights")

    def _run(self, feeds: Mapping[str, Array], seed: int, kind: _Kind) -> tuple[dict[str, Array], float]:
        values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in feeds.items()}
        key = (kind, *((name, *array.shape) for name, array in sorted(feeds.items())))
        if key not in self._passes:
            self._passes[key] = self._build(values, kind)
        now = self._passes[key]
        if isinstance(now, dict):
            self.unsupported = now
            return {}, 0.0
        self.unsupported = now.plan.unsupported
        names = {*now.plan.fetched, *(start.name for start in now.starts)}
        wanted = sorted(names & self._producers.keys())
        if wanted:
            values |= zip(wanted, now.forward.run_with_ort_values(wanted, values), strict=True)
        given = {name: values[name] for name in now.plan.fetched}
        generator, signal = np.random.default_rng(seed), 0.0
        for start in now.starts:
            v = _centred(generator.choice(np.array([-1, 1], np.float32), start.shape), start.classes)
            z = _centred(values[start.name].numpy().astype(np.float64), start.classes)
            power = float(np.square(z).sum())
            if len(now.starts) > 1:
                samples = len(z) if z.ndim else 1
                v *= np.float32((samples / power) ** 0.5 if power > 0 else 0)
                power = samples if power > 0 else 0
            signal += power
            if start.name in now.plan.cotangents:
                given[cotangent(start.name)] = OrtValue.ortvalue_from_numpy(v)
        found = now.backward.run_with_ort_values([result(name) for name in now.plan.values], given)
        return {name: value.numpy() for name, value in zip(now.plan.values, found, strict=True)}, signal

    def _build(self, feeds: Mapping[str, OrtValue], kind: _Kind) -> _Pass | dict[str, str]:
        """What runs for inputs of the shapes of `feeds`, or by value why nothing can."""
        asked = self._weights if kind == "weights" else self._values
        try:
            forward = self._observe(feeds)
            starts = self._starts(forward)
            wanted = self._wanted(forward, kind)
            model, plan = differentiate(self._nodes, forward, [start.name for start in starts], wanted)
            for name in asked:
                if name not in wanted:
                    plan.unsupported[name] = "it is no tensor of the main graph, or has no axes"
            if not plan.values:
                return plan.unsupported
            session = self._session({*plan.fetched, *(start.name for start in starts)})
            return _Pass(plan, starts, session, quiet_session(model))
        except Exception as error:  # a model no rule's author thought of must not stop its compression
            quiet_session(self._model.SerializeToString()).run_with_ort_values(None, feeds)  # raises if it is the feeds
            return dict.fromkeys(asked, str(error))

    def _wanted(self, forward: Forward, kind: _Kind) -> dict[str, Callable[[Var], Var]]:
        """By value, what a pass of this kind makes of its gradient."""
        if kind == "weights":
            return {name: _unchanged for name in self._weights if name in forward.shapes}
        found: dict[str, Callable[[Var], Var]] = {}
        for name in self._values:
            rank, channels = len(forward.shapes.get(name, ())), self._channels(name, forward)
            if rank:
                axes = [i for i in range(rank) if (i == channels % rank) == (kind == "positions")]
                found[name] = partial(_squares, axes=axes)
        return found

    def _observe(self, feeds: Mapping[str, OrtValue]) -> Forward:
        """Shapes and types of all values, and the constants among them."""
        made = sorted(self._producers)
        run = self._session(made).run_with_ort_values(made, dict(feeds)) if made else []
        values = {name: value for name, value in (*feeds.items(), *zip(made, run, strict=True)) if value.is_tensor()}
        weights = {tensor.name: tensor for tensor in self._model.graph.initializer if tensor.name not in feeds}
        known = constants(self._nodes, set(weights))
        arrays = {name: numpy_helper.to_array(tensor) for name, tensor in weights.items()}
        arrays |= {name: value.numpy() for name, value in values.items() if name in known}
        return Forward(
            shapes={name: tuple(value.shape()) for name, value in values.items()}
            | {name: array.shape for name, array in arrays.items()},
            types={name: value.element_type() for name, value in values.items()}
            | {name: tensor.data_type for name, tensor in weights.items()},
            constants=arrays,
        )

    def _session(self, names: Iterable[str]) -> InferenceSession:
        """The model, giving out these values too."""
        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        there = {output.name for output in model.graph.output}
        for name in sorted(self._producers.keys() & set(names) - there):
            model.graph.output.add(name=name)
        return quiet_session(model.SerializeToString())

    def _starts(self, forward: Forward) -> list[_Start]:
        """Float outputs, or the scores that they are made of."""
        found: dict[str, _Start] = {}
        for output in self._model.graph.output:
            name, classes = self._scores(output.name, forward)
            if forward.types.get(name) in FLOATS and name not in forward.constants:
                shape = forward.shapes[name]
                if name == output.name and len(shape) == 2 and shape[1] > 1:
                    classes = 1
                found.setdefault(name, _Start(name, shape, classes))
        return list(found.values())

    def _scores(self, output: str, forward: Forward) -> tuple[str, int | None]:
        """The scores that an output is a view of the probabilities of, and their axis of classes.

        Else the output itself; where that is made of integers by rounding, what was rounded.
        """
        name = output
        while name in self._producers and self._producers[name].op in _VIEWS:
            name = self._producers[name].inputs[0]
            if forward.types.get(output) not in FLOATS:
                output = name
        node = self._producers.get(name)
        if node is None or node.op not in _SCORES:
            return output, None
        default = {"ArgMax": 0}.get(node.op, -1 if node.opset >= 13 else 1)
        return node.inputs[0], None if node.op == "Sigmoid" else node.attr("axis", default)

    def _channels(self, name: str, forward: Forward) -> int:
        made_by = self._producers[name].op if name in self._producers else ""
        return self._axes.get(name, 1 if len(forward.shapes.get(name, ())) > 2 and made_by != "MatMul" else -1)


def _centred(array: Array, axis: int | None) -> Array:
    return array if axis is None else array - array.mean(axis, keepdims=True, dtype=array.dtype)


def _squares(grad: Var, axes: Sequence[int]) -> Var:
    return (grad * grad).sum(axes)


def _unchanged(grad: Var) -> Var:
    return grad
