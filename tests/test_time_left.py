"""The time left that the progress bar shows."""

from __future__ import annotations

import pytest

from onnxopt.cli.time_left import EVEN, SEARCH, UNKNOWN, left, passed


@pytest.mark.parametrize("times", [EVEN, SEARCH])
def test_time_passes_as_steps_do(times: tuple[tuple[float, float], ...]) -> None:
    shares = [passed(step / 100, times) for step in range(101)]
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_the_rest_takes_as_long_as_what_is_done_says() -> None:
    assert left(30.0, 0.5, EVEN) == "0:30"
    assert left(100.0, 0.9, SEARCH) == "0:11"
    assert left(300.0, 0.2, SEARCH) == "4:48"


def test_nothing_is_known_at_the_beginning() -> None:
    assert left(1.0, 0.5, EVEN) == left(60.0, 0.0, SEARCH) == UNKNOWN
