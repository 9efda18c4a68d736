"""The search finds the slope that meets a contract in few trials, and never accepts one that breaks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxopt.calibration.gains import fill_in
from onnxopt.search import slope as search
from onnxopt.search.slope import MOST_TRIALS, Candidate, Trial
from onnxopt.spec.promise import Promise

candidates = st.lists(st.tuples(st.integers(16, 10**7), st.floats(1e-9, 1e-3)), min_size=1, max_size=20).map(
    lambda pairs: [Candidate(str(i), n, power) for i, (n, power) in enumerate(pairs)]
)
away = st.floats(0.05, 20)
"""How far the formula's slope is from the right one, as a factor."""
noise = st.lists(st.floats(-0.1, 0.1), min_size=MOST_TRIALS, max_size=MOST_TRIALS)
"""Of measurements, relative."""


class Model:
    """Made of candidates: what it would measure at a slope, times one plus noise."""

    def __init__(self, weights: list[Candidate], noise: list[float] | None = None) -> None:
        self._weights, self._noise = weights, noise or [0.0] * MOST_TRIALS
        self.trials: list[Trial] = []

    def size(self, slope: float) -> float:
        return 1000 + search.expected_bits(self._weights, slope) / 8

    def error(self, slope: float) -> float:
        return search.expected_error(self._weights, slope)

    def __call__(self, slope: float) -> Trial:
        factor = 1 + self._noise[len(self.trials)]
        self.trials.append(Trial(slope, int(self.size(slope) * factor), self.error(slope) * factor, None))
        return self.trials[-1]


@given(candidates, st.floats(0.01, 0.5))
def test_the_formula_is_inverted(weights: list[Candidate], error: float) -> None:
    slope = search.slope_where(lambda s: search.expected_error(weights, s), error)
    most = search.expected_error(weights, math.inf)
    assert search.expected_error(weights, slope) == pytest.approx(min(error, most), rel=1e-3)
    bits = search.expected_bits(weights, slope)
    assert search.slope_where(lambda s: search.expected_bits(weights, s), bits) == pytest.approx(slope, rel=1e-3)


@given(candidates, st.floats(-5, 0), away)
@settings(max_examples=300)
def test_a_size_is_met_closely(weights: list[Candidate], octaves: float, factor: float) -> None:
    right = max(c.power for c in weights) * 10**octaves
    model = Model(weights)
    target = int(model.size(right))
    best = search.meet_size(model, right * factor, target)
    assert best in model.trials
    assert 0.98 * target - 1 <= best.size <= target
    assert len(model.trials) <= MOST_TRIALS


@given(candidates, st.floats(-5, -1), away)
@settings(max_examples=300)
def test_an_error_is_met_closely(weights: list[Candidate], octaves: float, factor: float) -> None:
    right = min(c.power for c in weights) * 10**octaves
    model = Model(weights)
    wanted = model.error(right)
    best = search.meet_error(model, right * factor, wanted)
    assert best in model.trials
    assert best.error
    assert 0.95 * wanted <= best.error <= wanted
    assert len(model.trials) <= MOST_TRIALS


@given(candidates, st.floats(-5, 0), away, noise)
@settings(max_examples=300)
def test_noise_breaks_no_contract(weights: list[Candidate], octaves: float, factor: float, noise: list[float]) -> None:
    """What is returned is the best of what was measured, and None only where nothing measured would do."""
    right = max(c.power for c in weights) * 10**octaves
    model = Model(weights, noise)
    target = int(model.size(right))
    best = search.meet_size(model, right * factor, target)
    fitting = [t for t in model.trials if t.size <= target]
    assert best == min(fitting, key=lambda t: t.slope, default=None)
    model = Model(weights, noise)
    wanted = model.error(right)
    best = search.meet_error(model, right * factor, wanted)
    fitting = [t for t in model.trials if t.error is not None and t.error <= wanted]
    assert best == max(fitting, key=lambda t: t.slope, default=None)
    assert len(model.trials) <= MOST_TRIALS


def dropping(drop: Callable[[float], float]) -> tuple[list[Trial], Callable[[float], Trial]]:
    trials: list[Trial] = []

    def measure(slope: float) -> Trial:
        trials.append(Trial(slope, 1000, None, drop(slope)))
        return trials[-1]

    return trials, measure


@given(st.floats(1e-9, 1e-3), st.floats(0.02, 50), st.floats(0, 2))
def test_a_drop_is_met_at_the_last_slope_that_keeps_it(right: float, factor: float, allowed: float) -> None:
    trials, measure = dropping(lambda slope: allowed if slope <= right else allowed + 0.01)
    best = search.meet_drop(measure, right * factor, Promise(allowed, 0.9))
    assert best
    assert right / 1.07 < best.slope <= right
    assert len(trials) <= MOST_TRIALS


@given(st.floats(1e-9, 1e-3), st.floats(0, 2), st.lists(st.floats(-1, 3), min_size=MOST_TRIALS, max_size=MOST_TRIALS))
def test_a_noisy_metric_breaks_no_contract(start: float, allowed: float, drops: list[float]) -> None:
    trials, measure = dropping(lambda slope: drops[len(trials)])
    best = search.meet_drop(measure, start, Promise(allowed, 0.9))
    fitting = [t for t in trials if t.drop is not None and t.drop <= allowed]
    assert best == max(fitting, key=lambda t: t.slope, default=None)
    assert len(trials) <= MOST_TRIALS


@given(st.dictionaries(st.sampled_from("abcd"), st.integers(1, 6), min_size=1), st.integers(0, 12), st.integers(0, 40))
def test_in_turns_all_go_as_far_as_they_may(sizes: dict[str, int], allowed: int, most: int) -> None:
    """A step costs one each and saves so many bytes; a has three steps to go."""
    turns: list[str] = []

    def measure(name: str, steps: Mapping[str, int]) -> Trial | None:
        turns.append(name)
        if steps.get("a", 0) > 3:
            return None
        return Trial(1.0, 1000 - sum(sizes[one] * count for one, count in steps.items()), None, sum(steps.values()))

    start = Trial(1.0, 1000, None, 0)
    best, steps = search.in_turns(start, list(sizes), measure, lambda t: t.drop is not None and t.drop <= allowed, most)
    assert best.drop == sum(steps.values()) <= allowed
    assert best.size == 1000 - sum(sizes[name] * count for name, count in steps.items())
    assert len(turns) <= most
    if len(turns) < most:  # all were stopped
        assert sum(steps.values()) == allowed or steps == {"a": 3}
    others = [count for name, count in steps.items() if name != "a"]
    assert not others or max(others) - min(others) <= 1


def test_what_makes_the_file_larger_is_no_step() -> None:
    start = Trial(1.0, 1000, None, 0.0)
    best, steps = search.in_turns(start, ["a"], lambda name, steps: Trial(1.0, 1001, None, 0.0), lambda t: True, 9)
    assert (best, steps) == (start, {"a": 0})


def test_what_cannot_be_met_is_none() -> None:
    model = Model([Candidate("w", 1000, 1e-3)])
    assert search.meet_size(model, 1e-6, 900) is None  # of which the graph alone takes 1000
    trials, measure = dropping(lambda slope: 1.0)
    assert search.meet_drop(measure, 1e-6, Promise(0.5, 0.9)) is None
    assert len(trials) <= MOST_TRIALS


def test_a_metric_that_nan_or_nothing_was_measured_of_is_not_kept() -> None:
    _, measure = dropping(lambda slope: math.nan)
    assert search.meet_drop(measure, 1e-6, Promise(0.5, 0.9)) is None


def test_gains_that_say_nothing_count_as_the_largest() -> None:
    measured = {"a": 2.0, "b": 8.0, "dead": 0.0, "broken": math.inf, "nan": math.nan, "tiny": 1e-9}
    gains = fill_in(measured, [*measured, "unmeasured"])
    assert {path for path, gain in gains.items() if gain == 8} == {"b", "dead", "broken", "nan", "unmeasured"}
    assert gains["a"] == 2
    assert 0 < gains["tiny"] < 1


def size(slope: float) -> int:
    """Of a file that loses a few bits for each octave."""
    return round(1000 - 100 * math.log(slope))


def test_an_error_that_no_slope_reaches_ends_the_search_soon() -> None:
    """What other things than weights make stays: here 0.1."""
    tried: list[Trial] = []

    def measure(slope: float) -> Trial:
        tried.append(Trial(slope, size(slope), math.sqrt(0.1**2 + slope), None))
        return tried[-1]

    assert search.meet_error(measure, 0.01, 0.05) is None
    assert len(tried) < MOST_TRIALS / 2


def test_a_trial_without_noise_does_not_mislead() -> None:
    """Below some slope no integer moves."""
    tried: list[float] = []

    def measure(slope: float) -> Trial:
        tried.append(slope)
        return Trial(slope, size(slope), math.sqrt(slope) if slope > 1e-4 else 0.0, None)

    best = search.meet_error(measure, 1e-5, 0.05)
    assert best is not None
    assert best.error is not None
    assert 0.045 < best.error <= 0.05
    assert len(tried) <= 8


def test_weights_that_are_as_coarse_as_can_be_are_no_floor() -> None:
    """The formula may start where nothing is left of them: files are the same but for the slope's digits."""
    tried: list[Trial] = []

    def measure(slope: float) -> Trial:
        finer = min(slope, 1e-3)
        tried.append(Trial(slope, size(finer) + len(tried) % 3, math.sqrt(10 * finer), None))
        return tried[-1]

    best = search.meet_error(measure, 1e5, 0.02)
    assert best is not None
    assert best.error is not None
    assert 0.017 < best.error <= 0.02


def test_an_error_that_finer_slopes_only_raise_ends_the_search_soon() -> None:
    """Outputs of a model in INT8 jump: here about a noise of 0.25."""
    seen = iter((0.226, 0.26, 0.275, 0.245, 0.25, 0.26))
    tried: list[Trial] = []

    def measure(slope: float) -> Trial:
        tried.append(Trial(slope, size(slope), next(seen), None))
        return tried[-1]

    assert search.meet_error(measure, 0.01, 0.05) is None
    assert len(tried) == 3


def test_an_error_that_rises_once_on_its_way_down_is_no_floor() -> None:
    """As for a detector on synthetic inputs, where its outputs are nearly zero."""
    seen = iter((0.638, 3.957, 0.293, 0.156, 0.155, 0.071, 0.033, 0.039, 0.027, 0.030, 0.0199))
    best = search.meet_error(lambda slope: Trial(slope, 1000, next(seen), None), 0.01, 0.02)
    assert best is not None
    assert best.error == 0.0199


def test_files_that_stay_the_same_from_slope_to_slope_take_few_trials() -> None:
    """Integers that move go over whole ones: noise jumps, and is the same before and after."""
    tried: list[float] = []

    def measure(slope: float) -> Trial:
        tried.append(slope)
        moved = slope > 2.3
        return Trial(slope, 700 if moved else 1000, 0.08 if moved else 0.01, None)

    best = search.meet_error(measure, 8.0, 0.05)
    assert best is not None
    assert best.size == 1000
    assert len(tried) <= 8
