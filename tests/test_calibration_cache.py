"""Statistics that were measured are kept: for a run that is stopped, and for the next one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from calibrating import MUCH, Calibrated, vectors

import onnxopt
from onnxopt import OnnxoptError
from onnxopt.calibration import collect
from onnxopt.calibration.cache import Cache
from onnxopt.files.set_aside import Shelf


def test_what_was_measured_is_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = vectors(64, 64)
    found = Calibrated(mlp(64), samples, tmp_path / "c")

    def none(*_: object) -> None:
        raise OnnxoptError("measured again")

    monkeypatch.setattr(collect, "measure_moments", none)
    monkeypatch.setattr("onnxopt.calibration.gains.Probe.error", none)
    monkeypatch.setattr("onnxopt.calibration.gains.Gradient", none)
    wanted = {path: found.of(path).gain for path in found.sites}
    found.cache.close(keep=True)
    again = found.measure(MUCH)
    for path, gain in wanted.items():
        assert np.array_equal(again.of(found.sites[path], found.graph.values(path)).gain, gain)
    found.cache.close(keep=True)
    next(file for file in (tmp_path / "c").iterdir() if file.name.count("-") == 1).write_bytes(b"torn")
    with pytest.raises(OnnxoptError, match="measured again"):
        found.measure(MUCH)


def test_statistics_that_are_taken_away_are_missed(tmp_path: Path) -> None:
    found = Calibrated(mlp(64), vectors(64, 64), tmp_path / "c")
    for file in (tmp_path / "c").glob("*.npz"):
        file.unlink()
    with pytest.raises(OnnxoptError, match="statistics of fc1 are gone"):
        found.of("fc1")


def test_two_runs_at_a_time_do_not_share_a_folder(tmp_path: Path) -> None:
    """The first to end deletes its own."""
    first, second = Cache(str(tmp_path / "c")), Cache(str(tmp_path / "c"))
    first.put("a", values=np.zeros(1))
    second.put("a", values=np.ones(1))
    first.close(keep=False)
    stored = second.get("a")
    assert stored is not None
    assert stored["values"] == 1
    second.close(keep=True)
    assert second.get("a") is None  # nobody would find it
    third = Cache(str(tmp_path / "c"))
    third.put("a", values=np.full(1, 2))
    third.close(keep=True)
    stored = Cache(str(tmp_path / "c")).get("a")
    assert stored is not None
    assert stored["values"] == 2


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And comes to the same file as one that was not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, small, other = tmp_path / "m.onnx", tmp_path / "small.onnx", tmp_path / "other.onnx"
    onnx.save(mlp(64), source)
    onnxopt.optimize(source, small)
    assert not list((tmp_path / "cache").rglob("*.npz"))

    def interrupt(what: str, share: float) -> None:
        if what == "measuring fc2" and share > 0.2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxopt.optimize(source, other, progress=interrupt)
    assert list((tmp_path / "cache").rglob("*.npz"))
    assert not other.exists()
    monkeypatch.setattr(collect, "measure_moments", None)  # nobody needs it any more
    onnxopt.optimize(source, other)
    assert other.read_bytes() == small.read_bytes()
    assert not list((tmp_path / "cache" / "onnxopt").iterdir())


def test_no_place_for_a_cache_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    cache = Cache("key")
    cache.put("a", values=np.arange(3))
    stored = cache.get("a")
    assert stored is not None
    assert np.array_equal(stored["values"], np.arange(3))
    cache.close(keep=True)  # as nobody would find it
    assert cache.get("a") is None


def test_what_a_failed_run_left_is_forgotten_after_a_week(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    running, recent, old = (Cache(key) for key in ("running", "recent", "old"))
    for cache in (running, recent, old):
        cache.put("a", values=np.arange(3))
    recent.close(keep=True)
    old.close(keep=True)
    week_ago = time.time() - 8 * 24 * 3600
    for name in ("running", "old"):
        os.utime(tmp_path / "onnxopt" / name / "lock", (week_ago, week_ago))
    Cache("new").close(keep=False)
    assert "a" in running
    assert "a" in Cache("recent")
    assert "a" not in Cache("old")


def test_weights_of_a_killed_run_are_forgotten_at_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    killed, beginning = (tmp_path / "onnxopt" / f"weights-{name}" for name in ("killed", "beginning"))
    for folder in (killed, beginning):
        folder.mkdir(parents=True)
        (folder / "lock").touch()
    running = Shelf()
    (kept,) = {*(tmp_path / "onnxopt").iterdir()} - {killed, beginning}
    for folder in (killed, kept):
        os.utime(folder / "lock", (time.time() - 120,) * 2)
    Shelf()
    assert not killed.exists()
    assert beginning.exists()
    assert kept.exists()
    del running
