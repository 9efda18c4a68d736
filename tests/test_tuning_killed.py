"""A training that is killed goes on, one that is interrupted keeps what it has; the page shows how it went."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from builders import tuning_case

import onnxopt
from onnxopt import Contract
from onnxopt.spec.recipes import Recipe


class KilledError(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A small network, and samples for it, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tuning_case(tmp_path, 64, 512)


@pytest.mark.parametrize(
    ("contract", "recipe", "epochs", "at"),
    [
        pytest.param(Contract(target_ratio=12), None, 9, "pass 5,", marks=pytest.mark.slow),
        (Contract(error=0.3), None, 12, "round 3 of 4, slope"),
        pytest.param(Contract(target_ratio=8), "deep-compression", 9, "after prune > tuned > prune: pass 2",
                     marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_killed_run_goes_on_to_the_same_bytes(
    small: tuple[Path, Path], tmp_path: Path, contract: Contract, recipe: str | None, epochs: int, at: str
) -> None:
    said: list[str] = []
    kill = True

    def telling(what: str, share: float) -> None:
        said.append(what)
        if kill and at in what:
            raise KilledError

    def compressed(name: str) -> bytes:
        said.clear()
        chosen = Recipe.open(recipe) if recipe else None
        onnxopt.optimize(small[0], tmp_path / name, contract, small[1], recipe=chosen, tune=f"{epochs}epochs",
                         allow_miss=True, progress=telling)  # fmt: skip
        return (tmp_path / name).read_bytes()

    with pytest.raises(KilledError):
        compressed("killed")
    before = sum(": pass " in line for line in said)
    kill = False
    resumed = compressed("resumed")
    after = sum(": pass " in line for line in said)
    assert compressed("whole") == resumed
    assert sum(": pass " in line for line in said) == before + after
    assert not list((tmp_path / "cache").rglob("*.npz"))


def test_an_interrupt_ends_all_trainings_of_a_recipe(small: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []

    def interrupting(what: str, share: float) -> None:
        said.append(what)
        if "training 1 of 3, after prune: pass 2," in what:
            raise KeyboardInterrupt

    onnxopt.optimize(small[0], tmp_path / "out", Contract(target_ratio=8), small[1], tune="400epochs",
                     recipe=Recipe.open("deep-compression"), progress=interrupting)  # fmt: skip
    assert "stopped: the best weights so far are kept" in said
    assert not any("prune > tuned" in line and ": pass" in line for line in said)


@pytest.mark.slow  # 5 s: two processes
@pytest.mark.skipif(sys.platform == "win32", reason="no such signals there")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_signals(small: tuple[Path, Path], tmp_path: Path, kind: signal.Signals) -> None:
    hearing = (  # a shell may start its background jobs deaf to it
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from onnxopt.cli import main; main()"
    )
    command = [sys.executable, "-P", "-c", hearing, "optimize", str(small[0]), "-o", str(tmp_path / "out"),
               "--data", str(small[1]), "--target-ratio", "12", "--tune", "200epochs", "-v"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if ": pass 40," in line:
                process.send_signal(kind)
                break
        rest, started = process.stderr.read(), time.monotonic()
        process.wait()
    if kind == signal.SIGINT:
        assert "stopped: the best weights so far are kept" in rest
        assert process.returncode == 0
        assert (tmp_path / "out").exists()
    else:
        assert not (tmp_path / "out").exists()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert ": pass 39," not in done.stderr
        assert ": pass 42," in done.stderr
    assert time.monotonic() - started < 60


def test_the_page_shows_the_training(small: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    done = onnxopt.optimize(small[0], tmp_path / "out", Contract(target_ratio=12), small[1], tune="6epochs",
                            progress=lambda what, share: said.append(what))  # fmt: skip
    assert done.tuning
    assert done.tuning[-1].epoch == 6
    assert done.tuning[-1].size <= done.tuning[0].size
    assert all(one.error for one in done.tuning)
    page = done.report()
    assert "Fine-tuning" in page
    assert f"<td>{done.tuning[-1].epoch}</td><td>1</td>" in page
    last = next(line for line in reversed(said) if "pass 6," in line)
    assert f"{done.tuning[-1].size:,} bytes, noise " in last
    assert "0 s left" in last
