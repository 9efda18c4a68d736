"""The choice of layers that become factor chains, on plain numbers."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isclose, sqrt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.search.allocation import Allocator, Goal, Layer, LayerOption, Part

SLOPE = 1e-9


def part(elements: int, bits: float) -> Part:
    """A weight that takes so many bits an element at the slope."""
    power = SLOPE * (4**bits - 1) / 1.4233
    return Part(elements, power, power)


def layer(path: str, elements: int, *chains: LayerOption, bits: float = 4.0, ms: float | None = None) -> Layer:
    return Layer(path, LayerOption("", (part(elements, bits),), 0.0, elements, ms), chains)


def chain(step: str, elements: int, noise: float, bits: float = 5.0, ms: float | None = None) -> LayerOption:
    return LayerOption(step, (part(elements, bits),), noise, elements, ms)


def test_bits_are_those_of_the_formula() -> None:
    assert isclose(part(1000, 4.0).bits(SLOPE), 4000, rel_tol=1e-3)
    assert part(1000, 4.0).noise(SLOPE) == 1000 * SLOPE
    assert part(1000, 4.0).noise(1.0) == 1000 * part(1000, 4.0).power


def test_size_takes_what_saves_more_than_its_noise_is_worth() -> None:
    """A tenth of the weights, for as much noise as quantization makes anyway; another, for a hundred times that."""
    elements = 10_000
    cheap = chain("svd{rank=8}", elements // 10, elements * SLOPE / 2)
    dear = chain("svd{rank=2}", elements // 40, 100 * elements * SLOPE)
    found = Allocator([layer("w", elements, cheap, dear), layer("v", elements)], SLOPE).choose(Goal.SIZE)
    assert found.chains == {"w": "svd{rank=8}"}
    (one,) = found.considered
    assert one.accepted
    assert not one.reason
    assert (one.weights_before, one.weights_after) == (elements, elements // 10)
    assert one.bytes_after < one.bytes_before
    assert one.noise == sqrt(cheap.noise)


def test_size_leaves_what_does_not_pay() -> None:
    """Nine tenths of the weights, for all of the noise."""
    made = chain("svd{rank=90}", 9_000, 10_000 * SLOPE)
    found = Allocator([layer("w", 10_000, made)], SLOPE).choose(Goal.SIZE)
    assert found.chains == {}
    assert found.slope == pytest.approx(SLOPE)
    (one,) = found.considered
    assert (one.step, one.accepted) == ("svd{rank=90}", False)
    assert float(one.reason.partition("x the bytes")[0]) > 0.95


@pytest.mark.parametrize("goal", Goal)
def test_nothing_is_chosen_where_there_is_no_layer_or_no_noise_is_allowed(goal: Goal) -> None:
    assert Allocator([], SLOPE).choose(goal).chains == {}
    noisy = layer("w", 1000, chain("svd{rank=1}", 100, 1.0, ms=0.1), ms=1.0)
    assert Allocator([noisy], SLOPE, 0.0).choose(goal).chains == {}


def test_noise_that_was_measured_counts_for_more_than_the_formula() -> None:
    """Where quantization makes more noise than its formula says, that of a chain is worth less."""
    layers = [layer("w", 10_000, chain("svd{rank=30}", 3_000, 7 * 10_000 * SLOPE))]
    assert not Allocator(layers, SLOPE).choose(Goal.SIZE).chains
    assert Allocator(layers, SLOPE, 20 * 10_000 * SLOPE).choose(Goal.SIZE).chains


@given(st.lists(st.tuples(st.floats(0.05, 0.9), st.floats(1e-3, 10)), min_size=1, max_size=6), st.sampled_from(Goal))
def test_noise_is_never_more_than_it_was(drawn: list[tuple[float, float]], goal: Goal) -> None:
    """Whatever is chosen: at the slope that comes with it, all noise is at most what there was without chains."""
    elements = 1000
    layers = [
        layer(str(i), elements, chain("svd{rank=1}", int(share * elements), noise * elements * SLOPE, ms=share), ms=1.0)
        for i, (share, noise) in enumerate(drawn)
    ]
    found = Allocator(layers, SLOPE).choose(goal)
    picked = [one.chains[0] if one.path in found.chains else one.whole for one in layers]
    made = sum(one.noise + one.quantized(found.slope) for one in picked)
    assert made <= len(drawn) * elements * SLOPE * (1 + 1e-6)


def test_speed_takes_the_fastest_whose_noise_is_allowed() -> None:
    chains = [chain(f"svd{{rank={rank}}}", 100 * rank, noise * 1e-6, ms=ms)
              for rank, noise, ms in ((8, 1.0, 0.9), (4, 3.0, 0.5), (2, 9.0, 0.2))]  # fmt: skip
    layers = [layer("w", 10_000, *chains, ms=1.0)]  # makes noise of 10e-6 itself, half of which is for chains
    found = Allocator(layers, SLOPE).choose(Goal.SPEED)
    assert found.chains == {"w": "svd{rank=4}"}
    assert found.slope == pytest.approx(0.7 * SLOPE)
    assert Allocator(layers, SLOPE).choose(Goal.SPEED, trust=0.4).chains == {"w": "svd{rank=8}"}


def test_speed_spends_noise_where_it_saves_most_time() -> None:
    """Enough for one of two layers."""
    layers = [
        layer(name, 5_000, chain("svd{rank=4}", 400, 4e-6, ms=ms), ms=1.0) for name, ms in (("a", 0.8), ("b", 0.3))
    ]
    found = Allocator(layers, SLOPE).choose(Goal.SPEED)
    assert found.chains == {"b": "svd{rank=4}"}
    first, second = found.considered
    assert "saves more time in other layers" in first.reason
    assert second.accepted


def test_what_is_slower_is_refused_and_by_how_much() -> None:
    slow = replace(chain("svd{rank=4}", 400, inf, ms=0.0813), ms=0.0813)
    for goal in (Goal.SPEED, Goal.BALANCED):
        found = Allocator([layer("w", 10_000, slow, ms=0.0661)], SLOPE).choose(goal)
        assert not found.chains
        (one,) = found.considered
        assert one.reason == "1.23x the time: 0.0813 ms against 0.0661"
        assert (one.ms_before, one.ms_after, one.noise) == (0.0661, 0.0813, None)


def test_too_much_noise_is_refused_with_both_figures() -> None:
    loud = chain("svd{rank=4}", 400, 1e-2, ms=0.1)
    (one,) = Allocator([layer("w", 10_000, loud, ms=1.0)], SLOPE).choose(Goal.SPEED).considered
    assert one.reason == "its noise over signal is 0.1; factor chains may make 0.0022"


def test_balanced_wants_both() -> None:
    smaller = chain("svd{rank=2}", 1_000, 1e-6, ms=1.0)
    faster = chain("svd{rank=80}", 9_900, 1e-6, ms=0.5)
    both = chain("svd{rank=4}", 2_000, 1e-6, ms=0.7)
    for chains, chosen in (((smaller,), ""), ((faster,), ""), ((smaller, faster, both), both.step)):
        found = Allocator([layer("w", 10_000, *chains, ms=1.0)], SLOPE).choose(Goal.BALANCED)
        assert found.chains.get("w", "") == chosen


def test_layers_without_chains_are_named_with_the_reason() -> None:
    layers = [replace(layer("w", 100), reason="is multiplied by itself"), layer("bias", 16)]
    (one,) = Allocator(layers, SLOPE).choose(Goal.SIZE).considered
    assert (one.path, one.step, one.accepted, one.reason) == ("w", "", False, "is multiplied by itself")


def test_less_trust_is_less_noise() -> None:
    layers = [layer("w", 10_000, chain("svd{rank=8}", 1_000, 10_000 * SLOPE / 3, ms=0.5), ms=1.0)]
    for goal in Goal:
        assert Allocator(layers, SLOPE).choose(goal).chains
        found = Allocator(layers, SLOPE).choose(goal, trust=0.05)
        assert not found.chains
        assert found.considered[0].noise == sqrt(10_000 * SLOPE / 3)  # what is trusted less makes no more for that


def test_what_was_measured_counts_and_less_for_less_noise() -> None:
    """A chain that makes four times the noise; one with half of its noise is taken to make twice as much."""
    noises = [10_000 * SLOPE * share for share in (0.4, 0.2, 0.05)]
    chains = [
        chain(f"svd{{rank={rank}}}", 100 * rank, noise, ms=rank / 20)
        for rank, noise in zip((2, 4, 8), noises, strict=True)
    ]
    chooser = Allocator([layer("w", 10_000, *chains, ms=1.0), layer("v", 10)], SLOPE)
    first = chooser.choose(Goal.SPEED)
    assert first.chains == {"w": "svd{rank=2}"}
    chooser.observed_noise(first.chains, 4.0)
    second = chooser.choose(Goal.SPEED)
    assert second.chains == {"w": "svd{rank=4}"}
    assert second.considered[0].noise == pytest.approx(sqrt(2 * noises[1]))
    chooser.observed_noise(second.chains, 2.0)
    third = chooser.choose(Goal.SPEED)
    assert third.chains == {"w": "svd{rank=8}"}
    assert third.considered[0].noise == pytest.approx(sqrt(noises[2]))
    chooser.observed_noise(third.chains, 0.5)
    last = chooser.choose(Goal.SPEED)
    assert last.chains == {"w": "svd{rank=4}"}
    assert last.considered[0].noise == pytest.approx(sqrt(2 * noises[1]))


def test_a_chain_without_noise_is_not_louder() -> None:
    """Of two chains whose noise was heard, one is exact."""
    exact, loud = (chain("svd{rank=4}", 400, noise, ms=0.5) for noise in (0.0, 2e-6))
    chooser = Allocator([layer("a", 10_000, exact, ms=1.0), layer("b", 10_000, loud, ms=1.0)], SLOPE)
    found = chooser.choose(Goal.SPEED)
    assert found.chains == {"a": exact.step, "b": loud.step}
    chooser.observed_noise(found.chains, 2.0)
    first, second = chooser.choose(Goal.SPEED).considered
    assert (first.noise, second.noise) == (0.0, pytest.approx(sqrt(2 * loud.noise)))
