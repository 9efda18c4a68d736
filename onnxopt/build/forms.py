"""The form of a model: which structural steps are in force, and what they made of its layers."""

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
"""Samples that channels are equalised on, and in one run."""


@dataclass(frozen=True, slots=True)
class Form:
    """Structural steps by kind."""

    chains: Mapping[str, Step] = field(default_factory=dict)
    """By the path of a weight, the pass that factorises its layer, as it was asked for."""
    equalised: tuple[str, ...] = ()
    """Values before depthwise layers whose channels have been brought to one range."""
    depthwise: tuple[str, ...] = ()
    """Values that depthwise convolutions make in the place of a PRelu."""
    rounded: Mapping[str, Step] = field(default_factory=dict)
    """By value, its QuantizeLinear/DequantizeLinear pair."""
    int8: Mapping[str, int] = field(default_factory=dict)
    """By the path of a weight that stays INT8 at run time, its bits at most; `decisions.INT32` for a bias."""
    fixed: Mapping[str, Step] = field(default_factory=dict)
    """By the path of a weight, the quantizing step that it has at every slope."""
    factored: Factored = field(default_factory=Factored)
    """What became of the chains."""
    raised: bool = False
    """Whether operators are of version `OPSET` at least, and batch normalizations convolutions."""
    convolved: bool = False
    """Whether there were any of these."""

    def merged(self, steps: Mapping[str, Step]) -> Form:
        """This form with further steps, none of which has been carried out."""
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
        """What its layers and their statistics depend on."""
        return dict(self.chains), frozenset(self.equalised), self.needs_opset

    def with_layers_of(self, other: Form) -> Form:
        """This form, its layers those that another one with the same structural steps has already."""
        return replace(
            self, factored=other.factored, raised=other.raised, convolved=other.convolved, equalised=other.equalised
        )

    @property
    def needs_opset(self) -> bool:
        """Whether operators have to know scales by channel."""
        return self.raised or bool(self.equalised or self.rounded)

    @property
    def key(self) -> str:
        """What statistics depend on, besides model and data."""
        text = "".join(f"{path}: {step}\n" for path, step in self.factored.steps.items())
        text += "".join(f"{value}: equalize\n" for value in self.equalised)
        return text + ("convolved\n" if self.convolved else "")

    @property
    def values(self) -> dict[str, Step]:
        """All that is decided on values, as a plan has it."""
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
    """The graph with operators that know scales by channel, each node with a name of its own, and whether batch
    normalizations became convolutions.

    Raises OnnxoptError where that cannot be.
    """
    paths = {site.path for site in graph.sites()}
    try:
        model = raise_opset(graph.model)
        convolved = batchnorm_to_conv(model) > 0
        made = Graph(model)
    except Exception as error:  # whatever the converter stumbles over
        raise OnnxoptError(f"its operators cannot be brought to version {OPSET}: {first_line(error)}") from error
    if paths != {site.path for site in made.sites()}:
        raise OnnxoptError(f"brought to version {OPSET} of the operators it has other weights")
    _name_nodes(made.model)
    return made, convolved


def _name_nodes(model: onnx.ModelProto) -> None:
    """Profiles call nodes by their names."""
    taken = set[str]()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}.{index}"
        taken.add(node.name)


def equalise(model: onnx.ModelProto, data: Data, wanted: Callable[[Neighbours], bool]) -> tuple[str, ...]:
    """Scales channels before depthwise layers to one range, in place; returns the values where it did."""
    found = [one.value for one in neighbours(model) if one.depthwise and wanted(one)]
    if not found:
        return ()
    cuttable = one_sample(model, data).size == 1
    peaks = channel_peaks(model, found, Chunks(data, _PIECE if cuttable else 0).feeds(_EQUALIZED))
    return tuple(one.value for one, _ in equalize(model, peaks))
