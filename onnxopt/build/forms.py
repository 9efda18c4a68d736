"""The form of a model: its structural steps, and their results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import onnx

from onnxopt.build.factorise import Factored, factorise
from onnxopt.calibration.chunks import Chunks, one_sample
from onnxopt.calibration.collect import Statistics
from onnxopt.data import Data
from onnxopt.errors import OnnxoptError, first_line
from onnxopt.graph import (
    OPSET,
    ChannelRanges,
    Graph,
    Neighbours,
    Smoothing,
    batchnorm_to_conv,
    channel_peaks,
    channel_ranges,
    channels_apart,
    equalize,
    inputs_of,
    is_depthwise,
    is_dynamic,
    is_equalized,
    is_for_value,
    neighbours,
    raise_opset,
    rounding,
    smooth,
    step_of_value,
)
from onnxopt.passes import STRUCTURAL
from onnxopt.passes.quantise.integers import Integers
from onnxopt.spec.plan import Step

_EQUALIZED, _PIECE = 256, 8
"""Samples used to equalise channels: in total, and per run."""
_RANGED = 64
"""Samples that ranges of single runs are taken from."""


@dataclass(frozen=True, slots=True)
class Form:
    """Structural steps, grouped by kind."""

    chains: Mapping[str, Step] = field(default_factory=dict)
    """By weight path, the factorisation of its layer, as requested."""
    equalised: tuple[str, ...] = ()
    """Values before depthwise layers whose channel ranges have been equalised."""
    depthwise: tuple[str, ...] = ()
    """Values that depthwise convolutions compute instead of a PRelu."""
    smoothed: Mapping[str, int] = field(default_factory=dict)
    """By value that is smoothed for the products that read it, the channels that go apart."""
    dynamic: tuple[str, ...] = ()
    """Values that products round by their range in each run."""
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
            smoothed={**self.smoothed, **_smoothed(values)},
            dynamic=_union(self.dynamic, (v for v, step in values.items() if is_dynamic(step))),
            rounded={**self.rounded, **{v: r.step() for v, step in values.items() if (r := rounding(step))}},
            int8={**self.int8, **{p: int(dict(s.args)["bits"]) for p, s in steps.items() if s.name == Integers.name}},
            fixed={**self.fixed, **{p: s for p, s in steps.items() if p not in values and _is_fixed(s)}},
        )

    @property
    def layers(self) -> object:
        """The parts of the form that determine its layers and their statistics."""
        return dict(self.chains), frozenset(self.equalised), dict(self.smoothed), self.needs_opset

    def with_layers_of(self, other: Form) -> Form:
        """This form, with the layers of another form that has applied the same structural steps."""
        return replace(
            self, factored=other.factored, raised=other.raised, convolved=other.convolved, equalised=other.equalised
        )

    @property
    def needs_opset(self) -> bool:
        """Whether operators must support per-channel scales."""
        return self.raised or bool(self.equalised or self.smoothed or self.dynamic or self.rounded)

    @property
    def key(self) -> str:
        """Cache key of the statistics, besides model and data."""
        text = "".join(f"{path}: {step}\n" for path, step in self.factored.steps.items())
        text += "".join(f"{value}: equalize\n" for value in self.equalised)
        text += "".join(f"{value}: smooth {apart}\n" for value, apart in self.smoothed.items())
        return text + ("convolved\n" if self.convolved else "")

    @property
    def values(self) -> dict[str, Step]:
        """All decisions on values, as they appear in a plan."""
        every = dict.fromkeys((*self.rounded, *self.depthwise, *self.equalised, *self.smoothed, *self.dynamic))
        return {
            one: step_of_value(
                self.rounded.get(one), equalized=one in self.equalised, depthwise=one in self.depthwise,
                smoothed=self.smoothed.get(one), dynamic=one in self.dynamic,
            )
            for one in every
        }  # fmt: skip

    def carried_out(
        self,
        graph: Graph,
        data: Data | None,
        statistics: Callable[[], Statistics],
        wanted: Callable[[Neighbours], bool],
    ) -> tuple[Graph, Form]:
        """The graph, which may be changed, with all structural steps applied, and the form that says so.

        Arguments:
            data: for steps that depend on it; without it, they change nothing.
            statistics: gives those of the graph.
            wanted: which channels are equalized.
        """
        factored, convolved, equalised = Factored(), False, tuple[str, ...]()
        if self.chains:
            factored = factorise(graph, self.chains, statistics())
        if self.needs_opset:
            graph, convolved = raise_operators(graph)
            if data is not None:
                equalised = equalise(graph.model, data, wanted)
                smooth(graph.model, smoothings(graph.model, data, self.smoothed))
        done = replace(self, factored=factored, raised=self.needs_opset, convolved=convolved, equalised=equalised)
        return Graph(graph.model, moves=graph.moves), done

    @property
    def changes_layers(self) -> bool:
        """Whether the layers are others than the origin's, and so their statistics."""
        return bool(self.chains or self.convolved or self.equalised or self.smoothed)


def _union(first: tuple[str, ...], more: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *more)))


def _smoothed(values: Mapping[str, Step]) -> dict[str, int]:
    """Channels that go apart, by value that is smoothed."""
    every = {value: channels_apart(step) for value, step in values.items()}
    return {value: apart for value, apart in every.items() if apart is not None}


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
        made = Graph(model, moves=graph.moves)
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


def ranges(model: onnx.ModelProto, data: Data, values: Sequence[str]) -> dict[str, ChannelRanges]:
    """Ranges of the channels of values that products read, over runs of one sample where the model takes such."""
    cuttable = one_sample(model, data).size == 1
    return channel_ranges(model, inputs_of(model, values), Chunks(data, int(cuttable)).feeds(_RANGED))


def smoothings(model: onnx.ModelProto, data: Data, apart: Mapping[str, int]) -> dict[str, Smoothing]:
    """How these values are smoothed, with so many of their channels apart.

    Raises OnnxoptError if no product reads one of them.
    """
    found = ranges(model, data, list(apart))
    if missing := [value for value in apart if value not in found]:
        raise OnnxoptError(f"plan, value {missing[0]!r}: no matrix product multiplies it by a matrix of its own")
    return {value: one.smoothing(apart[value]) for value, one in found.items()}
