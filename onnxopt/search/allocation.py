"""Chooses which layers become chains of thinner ones, and which chains. Knows numbers, no graphs.

What a chain leaves out of its layer is noise as quantization's is, so bytes are a price for it: those that finer steps
take to make up for it. At every slope a layer costs the bits of its weights and what its noise is worth, be it whole
or any of its chains, and the cheapest is taken; the slope is then the largest at which all noise is what it was without
chains. Time is no price for noise, so where only time counts, the noise of chains gets a share of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import e, inf, isinf, log, log2, pi, sqrt

from onnxopt.spec.goal import Goal

_SHARE = 0.5
"""Of the noise, what chains that only save time may make; the rest is for quantization."""
_SCALAR = pi * e / 6
"""A quantizer of single numbers, entropy-coded, takes the bits of a Gaussian of so many times the power."""
_COARSEST, _FINEST, _STEPS = 16.0, 2.0**-9, 8
"""Slopes that are looked at, against the one without chains, and how many in an octave."""
_PAYS = 0.95
"""Times the bits, or the time, that a chain may cost: formulas and clocks err by a few percent."""


@dataclass(frozen=True, slots=True)
class Part:
    """A weight that is to be quantized."""

    elements: int
    power: float
    """What one element contributes to the power of the model's outputs, relative to it, in the mean."""
    coded: float
    """The same for what is coded: a quantizer that passes errors on takes off what the inputs have in common."""

    def bits(self, slope: float) -> float:
        """In the file. In ResNet-20 and LeNet-5 layers of a bit an element and more take 0.8 to 1.1 times as many."""
        return self.elements * log2(1 + _SCALAR * self.coded / slope) / 2

    def noise(self, slope: float) -> float:
        """That its quantization makes in the outputs, relative to them, in power."""
        return self.elements * min(slope, self.power)

    def falling(self, slope: float) -> float:
        """Share of the elements that get coarser with the slope, as small ones are zero already."""
        return self.elements * (1 - 1 / (1 + _SCALAR * self.coded / slope))


@dataclass(frozen=True, slots=True)
class LayerOption:
    """One way to have a layer: whole, or as a chain."""

    step: str
    """Empty for the layer as it is."""
    parts: tuple[Part, ...]
    noise: float
    """That the chain makes before it is quantized, in the outputs, relative to them, in power; infinite where it was
    not asked for, as time alone rules the chain out."""
    macs: int
    """Of one sample."""
    ms: float | None = None
    """Of a run of the layer alone; None where time was not measured."""

    @property
    def weights(self) -> int:
        """Elements of all parts."""
        return sum(part.elements for part in self.parts)

    def bits(self, slope: float) -> float:
        """Of all parts."""
        return sum(part.bits(slope) for part in self.parts)

    def quantized(self, slope: float) -> float:
        """Noise of all parts."""
        return sum(part.noise(slope) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Layer:
    """A weight, and what its layer may become."""

    path: str
    whole: LayerOption
    chains: tuple[LayerOption, ...] = ()
    reason: str = ""
    """Why there are no chains, where there might have been."""


@dataclass(frozen=True, slots=True)
class LayerDecision:
    """A layer that might have become a chain: what it became, or what came nearest to paying."""

    path: str
    step: str
    """The chain; empty where there is none."""
    weights_before: int
    weights_after: int
    macs_before: int
    macs_after: int
    ms_before: float | None
    """Milliseconds of the layer alone, in the runtime, on one sample; None where time does not count."""
    ms_after: float | None
    bytes_before: float
    """Expected after coding, at the slope that was chosen."""
    bytes_after: float
    noise: float | None
    """Noise over signal in the model's outputs that the chain makes before it is quantized; None where that was not
    asked for, as time alone ruled it out."""
    accepted: bool
    reason: str
    """Why it was not; empty where it was."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen."""

    chains: dict[str, str]
    """Steps by path."""
    slope: float
    """Where the search with these chains may begin."""
    considered: tuple[LayerDecision, ...]


class Allocator:
    """Knows the layers of one model, and what quantization makes of them without chains.

    Arguments:
        layers: all weights of the model, those that can be no chains too.
        slope: what the search kept.
        noise: power that was measured there, of the outputs' noise relative to them; None trusts the formula.
    """

    def __init__(self, layers: Sequence[Layer], slope: float, noise: float | None = None) -> None:
        self._layers, self._slope = list(layers), slope
        self._ms = sum(layer.whole.ms or 0.0 for layer in layers)
        formula = sum(layer.whole.quantized(slope) for layer in layers)
        self._allowed = formula if noise is None else noise
        self._scale = self._allowed / formula if formula else 1.0
        self._trust = 1.0

    def observed_noise(self, chains: Mapping[str, str], times: float) -> None:
        """Takes notice that these chains, steps by path, make so many times the noise that was expected of them.

        What is small adds up as expected, and the outputs' nonlinearity shows in proportion to the noise. So where they
        are louder, chains of the same layer that make less noise are louder by less, and none is quieter.
        """

        def factor(noise: float, of_chosen: float) -> float:
            if times <= 1:
                return times
            return max(1.0, times * noise / of_chosen) if of_chosen else 1.0

        for index, layer in enumerate(self._layers):
            if layer.path in chains:
                (at,) = (one.noise for one in layer.chains if one.step == chains[layer.path])
                heard = tuple(replace(one, noise=one.noise * factor(one.noise, at)) for one in layer.chains)
                self._layers[index] = replace(layer, chains=heard)

    def choose(self, goal: Goal, trust: float = 1.0) -> Choice:
        """What every layer is to be; chains that are trusted less than 1 have so much less noise to make."""
        self._trust = trust
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
        """Noise that chains may make where they only save time."""
        return self._allowed * _SHARE * self._trust

    def _fastest(self) -> list[LayerOption]:
        """Those of least time whose noise is allowed: it gets the lowest price in time that keeps it so.

        What is then left of it goes where it saves most time.
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
        """Those of least cost at the largest slope at which all noise is allowed, and that slope."""
        bits = sum(layer.whole.bits(self._slope) for layer in self._layers)
        for step in range(round(log2(_COARSEST / _FINEST) * _STEPS) + 1):
            slope = self._slope * _COARSEST * 2 ** (-step / _STEPS)
            cost = self._cost(slope)

            def all_in_all(one: LayerOption, cost: Callable[[LayerOption], float] = cost) -> float:
                return cost(one) / bits + ((one.ms or 0.0) / self._ms if goal.timed else 0.0)

            picked = [min((layer.whole, *self._paying(goal, layer, cost)), key=all_in_all) for layer in self._layers]
            if sum(self._loss(one, slope) for one in picked) <= self._allowed:
                return picked, slope
        return [layer.whole for layer in self._layers], self._slope

    def _loss(self, one: LayerOption, slope: float) -> float:
        """All noise that counts."""
        return one.noise / self._trust + self._scale * one.quantized(slope)

    def _cost(self, slope: float) -> Callable[[LayerOption], float]:
        """Bits of an alternative, and those that finer steps of all layers would take to make up for its noise."""
        parts = [part for layer in self._layers for part in layer.whole.parts]
        falling = sum(part.falling(slope) for part in parts) / sum(part.elements for part in parts)
        price = falling / (2 * log(2) * slope * self._scale)
        return lambda one: one.bits(slope) + price * self._loss(one, slope)

    def _paying(self, goal: Goal, layer: Layer, cost: Callable[[LayerOption], float]) -> Iterator[LayerOption]:
        """The chains that save bytes and, where it counts, time."""
        saves_time, most = _saves_time(layer), _PAYS * cost(layer.whole)
        return (one for one in layer.chains if cost(one) <= most and (not goal.timed or saves_time(one)))

    def _judged(self, goal: Goal, layer: Layer, picked: LayerOption, slope: float) -> LayerDecision:
        """What is said of a layer."""
        whole, chain, reason = layer.whole, picked, layer.reason
        if layer.chains and not picked.step:
            chain, reason = self._nearest(goal, layer, slope)
        return LayerDecision(
            layer.path, chain.step, whole.weights, chain.weights, whole.macs, chain.macs, whole.ms, chain.ms,
            whole.bits(slope) / 8, chain.bits(slope) / 8, None if isinf(chain.noise) else sqrt(chain.noise),
            bool(picked.step), reason,
        )  # fmt: skip

    def _nearest(self, goal: Goal, layer: Layer, slope: float) -> tuple[LayerOption, str]:
        """The chain that came nearest to being chosen, and why it was not."""
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
            return nearest, f"its noise over signal is {made:.2g}; chains may make {most:.2g}"
        return nearest, "the noise that it makes saves more time in other layers"


def _saves_time(layer: Layer) -> Callable[[LayerOption], bool]:
    return lambda one: (one.ms or inf) <= _PAYS * (layer.whole.ms or 0.0)


def slower(after: float, before: float) -> str:
    """What is said of milliseconds that do not pay."""
    return f"{after / before:.2f}x the time: {after:.3g} ms against {before:.3g}"
