"""The time left that the progress bar shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import pytest
from builders import mlp
from commanding import refused, run

from onnxopt.build.schedule import Schedule, Seconds
from onnxopt.cli import optimize
from onnxopt.cli.time_left import UNKNOWN, Even, text
from onnxopt.errors import OnnxoptError


def test_even_steps_take_equal_times() -> None:
    left = Even()
    assert left(0.0, 100.0) is None
    assert left(0.5, 130.0) == pytest.approx(30)


@pytest.mark.parametrize(("words", "told"), [([], True), (["--for", "speed"], False), (["--activations", "8"], False)])
def test_races_have_no_time_left(words: list[str], told: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nobody knows how many there are: rather none than a wrong one."""
    bars = list[bool]()

    @contextmanager
    def bar(verbose: bool = False, log: Path | None = None, even: bool = True) -> Iterator[Callable[..., None]]:
        bars.append(even)
        raise OnnxoptError("enough")
        yield

    monkeypatch.setattr(optimize, "progress", bar)
    onnx.save(mlp(), tmp_path / "model.onnx")
    refused(run("optimize", tmp_path / "model.onnx", "-o", tmp_path / "small.onnx", *words), "enough")
    assert bars == [told]


def _said(events: list[tuple[float, float]], expected: Seconds | None) -> list[tuple[float, float]]:
    """What the bar says at each event, of a share as rooms tell it, and when."""
    clock, left, said = [0.0], Even(), list[tuple[float, float]]()

    def tell(what: str, share: float) -> None:
        found = left(share, clock[0])
        if found is not None:
            said.append((clock[0], found))

    schedule = Schedule(tell, lambda: clock[0])
    for count, (clock[0], share) in enumerate(events):
        schedule("", share)
        if not count and expected:
            schedule.expect(expected)
    return said


_MOMENTS = [(10.0 * k, 0.18 * k / 4) for k in range(5)]
_AFTER = [(42.0, 0.2), (52.0, 0.4), (56.0, 0.65), (60.0, 0.9), (62.0, 0.95)]
"""40 s for the pass over the data, 2 for its sums, 10 for gains, two tries of 4, 2 for the file, 4 for its check."""


def test_the_time_left_is_right_within_a_third() -> None:
    """Where the later phases take about what was expected, whatever was expected of the first."""
    said = _said([*_MOMENTS, *_AFTER], Seconds(15, 0, 12, 9, 2, 3))
    assert len(said) > 7
    for now, left in said:
        assert left == pytest.approx(66 - now, rel=1 / 3, abs=1), now


def test_more_tries_than_expected_take_longer() -> None:
    said = _said([*_MOMENTS, (42.0, 0.2), (52.0, 0.4), (56.0, 0.4 + 0.5 / 4), (60.0, 0.4 + 0.5 / 2)],
                 Seconds(15, 0, 12, 9, 2, 3))  # fmt: skip
    assert said[-1] == (60.0, pytest.approx(8 + 5))


def test_what_is_no_phase_is_counted_until_it_ends_and_not_as_the_phases_pace() -> None:
    clock, told = [0.0], list[float]()
    schedule = Schedule(lambda what, share: told.append(clock[0] / max(share, 1e-9) - clock[0]), lambda: clock[0])
    schedule("", 0.0)
    schedule.expect(Seconds(1, 0, 1, 4, 2, 3))
    clock[0] = 6.0
    schedule("", 0.9)
    schedule.pause(100.0)
    for clock[0], left in ((16.0, 90 + 5), (66.0, 40 + 5)):
        schedule("tuning", 0.9)
        assert told[-1] == pytest.approx(left)
    schedule.pause(0.0)
    clock[0] = 67.0
    schedule("writing", 0.925)
    assert told[-1] == pytest.approx(1 + 3)


def test_without_expectations_phases_keep_their_proportions() -> None:
    (_, first), *_ = _said(_MOMENTS, None)
    assert first == pytest.approx(30 + 65 * 10 / (35 / 4), rel=0.01)  # a quarter of 35 %, and 65 % after it


def test_minutes_and_seconds() -> None:
    assert text(None) == UNKNOWN
    assert text(61.4) == "1:01"
