"""Chooses which layers become factor chains, and which factor chains. Works on numbers, not on graphs.

A factor chain adds noise just as quantization does. The price of that noise is the number of bytes that finer
quantization steps need to compensate for it. At a given slope, the cost of an option is the bits of its weights plus
the price of its noise, and each layer takes the cheapest option: the unchanged layer or a factor chain. The slope is
then the largest one at which the total noise equals the noise without factor chains. Time has no such price, so if only
time counts, factor chains get a fixed share of the noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import e, inf, isinf, log, log2, pi, sqrt

from onnxopt.spec.goal import Goal

_SHARE = 0.5
"""Share of the noise budget that factor chains may use when they only save time; quantization gets the rest."""
_SCALAR = pi * e / 6
"""An entropy-coded scalar quantizer needs as many bits as the rate-distortion bound of a Gaussian with this many times
the power."""
_COARSEST, _FINEST, _STEPS = 16.0, 2.0**-9, 8
"""Range of slopes to try, relative to the slope without factor chains, and slopes per octave."""
_PAYS = 0.95
"""Largest cost or time of a factor chain, relative to its layer. Formulas and clocks err by a few percent."""


@dataclass(frozen=True, slots=True)
class Part:
    """A weight to quantize."""

    elements: int
    power: float
    """Mean contribution of one element to the power of the model's outputs, as a share of that power."""
    coded: float
    """The same for the coded signal: error feedback removes what the inputs have in common."""

    def bits(self, slope: float) -> float:
        """Estimated bits in the file. ResNet-20 and LeNet-5 layers with at least one bit per element take 0.8 to 1.1
        times this."""
        return self.elements * log2(1 + _SCALAR * self.coded / slope) / 2

    def noise(self, slope: float) -> float:
        """Noise-to-signal ratio of the outputs, in power, from quantizing this weight."""
        return self.elements * min(slope, self.power)

    def falling(self, slope: float) -> float:
        """Elements, weighted, that still get coarser as the slope grows; small ones are zero already."""
        return self.elements * (1 - 1 / (1 + _SCALAR * self.coded / slope))


@dataclass(frozen=True, slots=True)
class LayerOption:
    """One option for a layer: unchanged, or a factor chain."""

    step: str
    """Empty for the unchanged layer."""
    parts: tuple[Part, ...]
    noise: float
    """Noise-to-signal ratio of the outputs, in power, from the factor chain before quantization; infinite if it was not
    computed because time alone rules the factor chain out."""
    macs: int
    """Multiply-accumulates of one sample."""
    ms: float | None = None
    """Milliseconds of one run of the layer alone; None if time was not measured."""

    @property
    def weights(self) -> int:
        """Elements in all parts."""
        return sum(part.elements for part in self.parts)

    def bits(self, slope: float) -> float:
        """Estimated bits of all parts."""
        return sum(part.bits(slope) for part in self.parts)

    def quantized(self, slope: float) -> float:
        """Quantization noise of all parts."""
        return sum(part.noise(slope) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight and the options for its layer."""

    path: str
    whole: LayerOption
    chains: tuple[LayerOption, ...] = ()
    reason: str = ""
    """Why there are no factor chains; empty if there are, or if none can exist."""


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """The decision on a layer with candidate factor chains: the chosen option, or the one that came closest to paying
    off."""

    path: str
    step: str
    """The factor chain; empty if there is none."""
    weights_before: int
    weights_after: int
    macs_before: int
    macs_after: int
    ms_before: float | None
    """Milliseconds of the layer alone, in the runtime, on one sample; None if time does not count."""
    ms_after: float | None
    bytes_before: float
    """Estimate after coding, at the chosen slope."""
    bytes_after: float
    noise: float | None
    """Noise-to-signal ratio of the model's outputs from the factor chain before quantization; None if it was not
    computed because time alone ruled the factor chain out."""
    accepted: bool
    reason: str
    """Why the factor chain was rejected; empty if it was accepted."""


@dataclass(frozen=True, slots=True)
class Choice:
    """The result of an allocation."""

    chains: dict[str, str]
    """Steps by path."""
    slope: float
    """Start of the search with these factor chains."""
    considered: tuple[LayerDecision, ...]


class Allocator:
    """Allocates factor chains to the layers of one model.

    Arguments:
        layers: all weights of the model, including those that cannot be factorised.
        slope: the slope that the search without factor chains kept.
        noise: measured noise-to-signal ratio of the outputs at that slope, in power; None to use the formula.
    """

    def __init__(self, layers: Sequence[Layer], slope: float, noise: float | None = None) -> None:
        self._layers, self._slope = list(layers), slope
        self._ms = sum(layer.whole.ms or 0.0 for layer in layers)
        formula = sum(layer.whole.quantized(slope) for layer in layers)
        self._allowed = formula if noise is None else noise
        self._scale = self._allowed / formula if formula and self._allowed else 1.0
        self._trust = 1.0

    def observed_noise(self, chains: Mapping[str, str], times: float) -> None:
        """Records that these factor chains, steps by path, make `times` the expected noise.

        Small noise adds up as expected; the nonlinearity of the model shows in proportion to the noise. So if the
        measured noise is higher, the other factor chains of a layer are corrected in proportion to their noise, and
        never downwards.
        """

        def correction(noise: float, of_chosen: float) -> float:
            if times <= 1:
                return times
            return max(1.0, times * noise / of_chosen) if of_chosen else 1.0

        for index, layer in enumerate(self._layers):
            if layer.path in chains:
                (at,) = (one.noise for one in layer.chains if one.step == chains[layer.path])
                corrected = tuple(replace(one, noise=one.noise * correction(one.noise, at)) for one in layer.chains)
                self._layers[index] = replace(layer, chains=corrected)

    def choose(self, goal: Goal, trust: float = 1.0) -> Choice:
        """Chooses an option for every layer. A `trust` below 1 scales down the noise that factor chains may make."""
        self._trust = trust
        if not self._layers:
            return Choice({}, self._slope, ())
        if goal is Goal.SPEED:
            picked = self._fastest()
            made = sum(one.noise for one in picked)
            slope = self._slope * (1 - made / self._allowed) if made else self._slope
        else:
            picked, slope = self._cheapest(goal)
        pairs = list(zip(self._layers, picked, strict=True))
        considered = [self._judged(goal, layer, one, slope) for layer, one in pairs if layer.chains or layer.reason]
        return Choice({layer.path: one.step for layer, one in pairs if one.step}, slope, tuple(considered))

    @property
    def _for_time(self) -> float:
        """Noise that factor chains may make when they only save time."""
        return self._allowed * _SHARE * self._trust

    def _fastest(self) -> list[LayerOption]:
        """The fastest options within the noise budget: bisects for the lowest price of noise that keeps the budget.

        What is left of the budget is then spent where it saves the most time.
        """
        offered = [(layer.whole, *filter(_saves_time(layer), layer.chains)) for layer in self._layers]

        def at(price: float) -> list[LayerOption]:
            return [min(every, key=lambda one: (one.ms or 0.0) + price * one.noise) for every in offered]

        low, high = 1e-12, 1e12
        for _ in range(80):
            middle = sqrt(low * high)
            if sum(one.noise for one in at(middle)) <= self._for_time:
                high = middle
            else:
                low = middle
        picked = at(high)
        while True:
            left = self._for_time - sum(one.noise for one in picked)
            better = [
                ((now.ms or 0.0) - (one.ms or 0.0), i, one)
                for i, (now, every) in enumerate(zip(picked, offered, strict=True))
                for one in every
                if (one.ms or 0.0) < (now.ms or 0.0) and one.noise - now.noise <= left
            ]
            if not better:
                return picked
            _, i, one = max(better, key=lambda found: found[0])
            picked[i] = one

    def _cheapest(self, goal: Goal) -> tuple[list[LayerOption], float]:
        """The cheapest options at the largest slope that keeps the noise budget, and that slope."""
        bits = sum(layer.whole.bits(self._slope) for layer in self._layers)
        for step in range(round(log2(_COARSEST / _FINEST) * _STEPS) + 1):
            slope = self._slope * _COARSEST * 2 ** (-step / _STEPS)
            cost = self._cost(slope)

            def total_cost(one: LayerOption, cost: Callable[[LayerOption], float] = cost) -> float:
                return cost(one) / bits + ((one.ms or 0.0) / self._ms if goal.timed else 0.0)

            picked = [min((layer.whole, *self._paying(goal, layer, cost)), key=total_cost) for layer in self._layers]
            if sum(self._loss(one, slope) for one in picked) <= self._allowed:
                return picked, slope
        return [layer.whole for layer in self._layers], self._slope

    def _loss(self, one: LayerOption, slope: float) -> float:
        """Total noise of an option: of the factor chain, corrected for trust, and of quantization."""
        return one.noise / self._trust + self._scale * one.quantized(slope)

    def _cost(self, slope: float) -> Callable[[LayerOption], float]:
        """Lagrangian cost in bits: the bits of an option plus the bits that finer steps in all layers need to offset
        its noise."""
        parts = [part for layer in self._layers for part in layer.whole.parts]
        falling = sum(part.falling(slope) for part in parts) / sum(part.elements for part in parts)
        price = falling / (2 * log(2) * slope * self._scale)
        return lambda one: one.bits(slope) + price * self._loss(one, slope)

    def _paying(self, goal: Goal, layer: Layer, cost: Callable[[LayerOption], float]) -> Iterator[LayerOption]:
        """The factor chains that save bytes and, if it counts, time."""
        saves_time, most = _saves_time(layer), _PAYS * cost(layer.whole)
        return (one for one in layer.chains if cost(one) <= most and (not goal.timed or saves_time(one)))

    def _judged(self, goal: Goal, layer: Layer, picked: LayerOption, slope: float) -> LayerDecision:
        """The decision to report for a layer."""
        whole, chain, reason = layer.whole, picked, layer.reason
        if layer.chains and not picked.step:
            chain, reason = self._nearest(goal, layer, slope)
        return LayerDecision(
            layer.path, chain.step, whole.weights, chain.weights, whole.macs, chain.macs, whole.ms, chain.ms,
            whole.bits(slope) / 8, chain.bits(slope) / 8, None if isinf(chain.noise) else sqrt(chain.noise),
            bool(picked.step), reason,
        )  # fmt: skip

    def _nearest(self, goal: Goal, layer: Layer, slope: float) -> tuple[LayerOption, str]:
        """The factor chain that came closest to being chosen, and why it was not."""
        whole, chains, cost = layer.whole, list(layer.chains), self._cost(slope)
        if goal.timed:
            chains = list(filter(_saves_time(layer), chains))
            if not chains:
                nearest = min(layer.chains, key=lambda one: one.ms or inf)
                return nearest, slower(nearest.ms or 0.0, whole.ms or inf)
        if goal.weighed:
            nearest = min(chains, key=cost)
            return nearest, f"{cost(nearest) / cost(whole):.2f}x the bytes, with those that its noise is worth"
        nearest = min(chains, key=lambda one: one.noise)
        made, most = sqrt(nearest.noise), sqrt(self._for_time)
        if made > most:
            return nearest, f"its noise over signal is {made:.2g}; factor chains may make {most:.2g}"
        return nearest, "the noise that it makes saves more time in other layers"


def _saves_time(layer: Layer) -> Callable[[LayerOption], bool]:
    return lambda one: (one.ms or inf) <= _PAYS * (layer.whole.ms or 0.0)


def slower(after: float, before: float) -> str:
    """The reason to report if a factor chain does not save time."""
    return f"{after / before:.2f}x the time: {after:.3g} ms against {before:.3g}"
