"""The time left that the progress bar shows."""

from __future__ import annotations

import pytest

from onnxopt.cli.time_left import UNKNOWN, Even, Searching, text


def test_even_steps_take_equal_times() -> None:
    left = Even()
    assert left(0.0, 100.0) is None
    assert left(0.5, 130.0) == pytest.approx(30)


def test_a_search_takes_as_long_as_its_tries() -> None:
    """Statistics for 30 s, six tries of 4 s each, 6 s for the file and its check."""
    left, ends = Searching(), 60.0
    events = [(0.0, 0.0), (0.01, 17.0), (0.2, 29.0), (0.4, 30.0)]
    events += [(0.9 - 0.5 * 0.8**done, 30.0 + 4 * done) for done in range(1, 7)] + [(0.9, 54.0), (0.95, 57.0)]
    assert left(*events[0]) is None
    for share, now in events[1:]:
        found = left(share, now)
        assert found is not None
        assert found == pytest.approx(ends - now, rel=1 / 3, abs=2), (share, now)


def test_minutes_and_seconds() -> None:
    assert text(None) == UNKNOWN
    assert text(61.4) == "1:01"
