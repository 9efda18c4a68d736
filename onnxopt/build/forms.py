"""The form of a model: its structural steps, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import onnx

from onnxopt.build.factorise import Factored
from onnxopt.calibration.chunks import Chunks, one_sample
from onnxopt.data import Data
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import (
    OPSET,
    Graph,
    Neighbours,
    batchnorm_to_conv,
    channel_peaks,
    equalize,
    is_depthwise,
    is_equalized,
    is_for_value,
    neighbours,
    raise_opset,
    rounding,
    step_of_value,
)
from onnxopt.passes import STRUCTURAL
from onnxopt.passes.quantise.integers import Integers
from onnxopt.spec.plan import Step

_EQUALIZED, _PIECE = 256, 8
"""Samples used to equalise channels: in total, and per run."""


@dataclass(frozen=True, slots=True)
class Form:
    """Structural steps, grouped by kind."""

    chains: Mapping[str, Step] = field(default_factory=dict)
    """By weight path, the factorisation of its layer, as requested."""
    equalised: tuple[str, ...] = ()
    """Values before depthwise layers whose channel ranges have been equalised."""
    depthwise: tuple[str, ...] = ()
    """Values that depthwise convolutions compute instead of a PRelu."""
    rounded: Mapping[str, Step] = field(default_factory=dict)
    """By value, its QDQ pair."""
    int8: Mapping[str, int] = field(default_factory=dict)
    """By path of a weight that stays INT8 at run time, its largest number of bits; `decisions.INT32` for a bias."""
    fixed: Mapping[str, Step] = field(default_factory=dict)
    """By weight path, a quantizing step that is the same at every slope."""
    factored: Factored = field(default_factory=Factored)
    """The result of the requested factorisations."""
    raised: bool = False
    """Whether the opset is at least `OPSET` and batch normalizations have become convolutions."""
    convolved: bool = False
    """Whether any batch normalization became a convolution."""

    def merged(self, steps: Mapping[str, Step]) -> Form:
        """This form with further steps, which are not applied yet."""
        values = {name: step for name, step in steps.items() if is_for_value(step)}
        return replace(
            self,
            chains={**self.chains, **{p: s for p, s in steps.items() if s.name in STRUCTURAL}},
            equalised=_union(self.equalised, (v for v, step in values.items() if is_equalized(step))),
            depthwise=_union(self.depthwise, (v for v, step in values.items() if is_depthwise(step))),
            rounded={**self.rounded, **{v: r.step() for v, step in values.items() if (r := rounding(step))}},
            int8={**self.int8, **{p: int(dict(s.args)["bits"]) for p, s in steps.items() if s.name == Integers.name}},
            fixed={**self.fixed, **{p: s for p, s in steps.items() if p not in values and _is_fixed(s)}},
        )

    @property
    def layers(self) -> object:
        """The parts of the form that determine its layers and their statistics."""
        return dict(self.chains), frozenset(self.equalised), self.needs_opset

    def with_layers_of(self, other: Form) -> Form:
        """This form, with the layers of another form that has applied the same structural steps."""
        return replace(
            self, factored=other.factored, raised=other.raised, convolved=other.convolved, equalised=other.equalised
        )

    @property
    def needs_opset(self) -> bool:
        """Whether operators must support per-channel scales."""
        return self.raised or bool(self.equalised or self.rounded)

    @property
    def key(self) -> str:
        """Cache key of the statistics, besides model and data."""
        text = "".join(f"{path}: {step}\n" for path, step in self.factored.steps.items())
        text += "".join(f"{value}: equalize\n" for value in self.equalised)
        return text + ("convolved\n" if self.convolved else "")

    @property
    def values(self) -> dict[str, Step]:
        """All decisions on values, as they appear in a plan."""
        every = dict.fromkeys((*self.rounded, *self.depthwise, *self.equalised))
        return {
            one: step_of_value(
                self.rounded.get(one), equalized=one in self.equalised, depthwise=one in self.depthwise
            )
            for one in every
        }  # fmt: skip


def _union(first: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))


def _is_fixed(step: Step) -> bool:
    return step.name not in STRUCTURAL and step.name != Integers.name


def raise_operators(graph: Graph) -> tuple[Graph, bool]:
    """Raises the opset to one with per-channel scales and gives each node a unique name.

    Returns the new graph and whether batch normalizations became convolutions. Raises OnnxoptError if the opset cannot
    be raised.
    """
    paths = {site.path for site in graph.sites()}
    try:
        model = raise_opset(graph.model)
        convolved = batchnorm_to_conv(model) > 0
        made = Graph(model)
    except Exception as error:  # any failure of the converter
        raise OnnxoptError(f"its operators cannot be brought to version {OPSET}: {first_line(error)}") from error
    if paths != {site.path for site in made.sites()}:
        raise OnnxoptError(f"brought to version {OPSET} of the operators it has other weights")
    _name_nodes(made.model)
    return made, convolved


def _name_nodes(model: onnx.ModelProto) -> None:
    """Gives each node a unique name, which profiles use."""
    taken = set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{index}"
        taken.add(node.name)


def equalise(model: onnx.ModelProto, data: Data, wanted: Callable[[Neighbours], bool]) -> tuple[str, ...]:
    """Equalises channel ranges before depthwise layers, in place. Returns the values that changed."""
    found = [one.value for one in neighbours(model) if one.depthwise and wanted(one)]
    if not found:
        return ()
    cuttable = one_sample(model, data).size == 1
    peaks = channel_peaks(model, found, Chunks(data, _PIECE if cuttable else 0).feeds(_EQUALIZED))
    return tuple(one.value for one, _ in equalize(model, peaks))
