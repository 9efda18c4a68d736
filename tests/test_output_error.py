"""What "the same" means: noise of numbers, agreement of labels, and never 0 for what was not compared."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxopt.metrics.output_error import agreement, output_error

X = np.random.default_rng(0).standard_normal((50, 4)).astype(np.float32)


def test_noise_is_relative_to_the_signal() -> None:
    assert output_error([X], [1.03 * X]) == pytest.approx(0.03, rel=1e-4)


def test_a_shift_of_all_values_counts_unless_they_are_scores() -> None:
    assert output_error([X], [X + 1]) == pytest.approx(1, rel=0.2)
    assert output_error([X], [X + 1], [1]) == pytest.approx(0, abs=1e-6)
    assert output_error([X], [X + np.arange(4)], [1]) > 0.5


@pytest.mark.parametrize(
    "nothing",
    [[], [np.array([1, 2])], [np.array(["a"], object)], [np.zeros((0, 4), np.float32)], [np.full(3, np.nan)], [[]],
     [np.zeros(3, np.float32)], [[{1: "a"}]]],
    ids=str,
)  # fmt: skip
def test_what_holds_no_floats_says_nothing(nothing: list[object]) -> None:
    assert output_error(nothing, nothing) is None


def test_positions_that_are_not_finite() -> None:
    wanted = np.array([1, 2, np.inf, -np.inf, np.nan, 3, 4, 5], np.float32)
    assert output_error([wanted], [wanted]) == 0
    for place, value in ((0, np.nan), (2, 7), (2, -np.inf), (4, 0), (4, np.inf)):
        got = wanted.copy()
        got[place] = value
        assert output_error([wanted], [got]) > 0.3, (place, value)


def test_another_shape_is_infinitely_wrong() -> None:
    assert output_error([X], [X[:-1]]) == np.inf
    assert output_error([[X, X]], [[X]]) == np.inf
    assert agreement([np.arange(3)], [np.arange(4)]) == 0


def test_anything_in_place_of_zeros_is_wrong() -> None:
    zeros, got = np.zeros(8, np.float32), np.zeros(8, np.float32)
    got[:2] = 1e-3
    assert output_error([zeros], [got]) == pytest.approx(0.25**0.5)


def test_one_empty_output_does_not_hide_another() -> None:
    empty = np.zeros((0, 2), np.float32)
    assert output_error([X, empty], [1.03 * X, empty]) == pytest.approx(0.03, rel=1e-4)


def test_sequences_and_maps_count_by_their_elements() -> None:
    assert output_error([[X, X]], [[X, 1.06 * X]]) == pytest.approx(0.06 / 2**0.5, rel=1e-4)
    maps = [{"a": 0.25, "b": 0.75}, {"a": 0.5, "b": 0.5}]
    noisy = [{key: 1.1 * value for key, value in one.items()} for one in maps]
    assert output_error([maps], [noisy]) == pytest.approx(0.1)
    assert agreement([maps], [noisy]) == 1
    assert agreement([maps], [[{"a": 0.25, "c": 0.75}, maps[1]]]) == 0.75


def test_labels_count_by_agreement() -> None:
    labels = np.arange(10)
    got = labels.copy()
    got[3] = 0
    assert agreement([labels], [got]) == 0.9
    assert agreement([labels == 3, labels], [labels == 3, got]) == 0.9
    texts = np.array(["cat", "dog"], object)
    assert agreement([texts], [texts[::-1]]) == 0
    assert agreement([["cat", "dog"]], [["cat", "cow"]]) == 0.5
    assert agreement([X], [X]) is None


@given(st.floats(1e-6, 1e3), st.integers(0, 2**32 - 1))
def test_a_scale_of_both_changes_nothing(factor: float, seed: int) -> None:
    noise = 0.1 * np.random.default_rng(seed).standard_normal(X.shape)
    wanted, got = X.astype(np.float64), X + noise
    assert output_error([factor * wanted], [factor * got]) == pytest.approx(output_error([wanted], [got]))


def test_a_common_part_hides_no_noise_between_columns() -> None:
    scores = X + 100
    assert output_error([scores], [scores + 0.03 * X]) == pytest.approx(0.03, rel=0.2)
    alike = np.repeat(X[:, :1], 2, 1)
    assert output_error([alike], [1.03 * alike]) == pytest.approx(0.03, rel=1e-4)


@pytest.mark.parametrize("classes", [None, -1, 0])
def test_values_in_pieces_have_the_error_of_the_whole(classes: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    wanted = rng.normal(3, 1, (5, 4, 30)).astype(np.float32)
    got = wanted + rng.normal(0, 0.1, wanted.shape).astype(np.float32)
    got[1, 2, 3] = np.nan
    whole = output_error([wanted], [got], [classes])
    monkeypatch.setattr("onnxopt.metrics.output_error._AT_ONCE", 64)
    assert output_error([wanted], [got], [classes]) == pytest.approx(whole, rel=1e-9)
