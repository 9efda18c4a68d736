"""Several models in one command: each has a process of its own, and what is done is not done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import onnx
import pytest
from builders import mlp
from commanding import refused, run

from onnxopt.errors import OnnxoptError
from onnxopt.pool import Threads
from onnxopt.studies.batch import Job, Outcome, batch, exit_code

COMMAND = (str(Path(__file__).with_name("fake_onnxopt.py")),)


def outcomes(folder: Path, *models: str) -> tuple[list[Outcome], list[tuple[str, float]]]:
    told: list[tuple[str, float]] = []
    jobs = [Job(Path(model), Path(f"{model}.out"), (), folder) for model in models]
    with Threads(2) as pool:
        found = dict(batch(COMMAND, jobs, pool, lambda *step: told.append(step)))
    return [found[index] for index in range(len(jobs))], told


def test_one_failure_stops_no_other(tmp_path: Path) -> None:
    found, told = outcomes(tmp_path, "good", "bad", "crash", "missed")
    assert [(one.status, one.code) for one in found] == [("met", 0), ("failed", 1), ("failed", -9), ("missed", 3)]
    assert [one.reason for one in found] == [
        "",
        "bad: is wrong",
        "its process was ended by signal 9",
        "missed: is wrong",
    ]
    assert (found[0].bytes_before, found[0].bytes_after, found[0].peak_memory) == (8, 7, 1)
    assert told[-1][1] == 1
    assert told[-1][0].startswith("4 of 4 models done; ")
    assert any("good: working" in what for what, _ in told)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_what_is_done_is_kept(tmp_path: Path) -> None:
    outcomes(tmp_path, "good", "bad")
    (tmp_path / "other.out").write_text("of an older request")
    (tmp_path / "ran.txt").unlink()
    found, _ = outcomes(tmp_path, "good", "bad", "other")
    assert [one.status for one in found] == ["kept", "failed", "met"]
    assert found[0].bytes_after == len("current")
    assert sorted((tmp_path / "ran.txt").read_text().splitlines()) == [
        "bad make", "good check", "other check", "other make"
    ]  # fmt: skip


@pytest.mark.parametrize(("memory", "together"), [(96 * 1024, True), (80 * 1024, False), (1, False), (0, True)])
def test_jobs_run_beside_each_other_where_their_statistics_fit(memory: int, together: bool, tmp_path: Path) -> None:
    """Those of one take 2 (24^2 + 48^2) 8 = 45 kB at most; one alone always runs."""
    names = ("first.onnx", "second.onnx")
    for name in names:
        onnx.save(mlp(24), tmp_path / name)
    jobs = [Job(Path(name), Path(f"{name}.out"), (), tmp_path, memory) for name in names]
    with Threads(2) as pool:
        assert [one.status for _, one in batch(COMMAND, jobs, pool, lambda what, share: None)] == ["met", "met"]
    what = [line.split()[1] for line in (tmp_path / "ran.txt").read_text().splitlines()]
    assert what == (["make", "make", "made", "made"] if together else ["make", "made", "make", "made"])


@pytest.mark.parametrize(("codes", "worst"), [([0, 0], 0), ([0, 3], 3), ([3, 1, 0], 1), ([0, -9], 1), ([2], 1)])
def test_the_exit_code_is_that_of_the_worst(codes: list[int], worst: int) -> None:
    assert exit_code([Outcome(Path(), Path(), "", code, "", None, None, 0.0, None) for code in codes]) == worst


def test_no_process_is_left_when_it_is_stopped(tmp_path: Path) -> None:
    jobs = [Job(Path(model), Path(f"{model}.out"), (), tmp_path) for model in ("slow", "good")]
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Threads(2) as pool:
        for _ in batch(COMMAND, jobs, pool, lambda what, share: None):
            while not (tmp_path / "slow.pid").exists():
                time.sleep(0.01)
            raise KeyboardInterrupt
    assert time.monotonic() - started < 30
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "slow.pid").read_text()), 0)


def test_a_log_that_cannot_be_written_stops_all(tmp_path: Path) -> None:
    def gone(what: str, share: float) -> None:
        raise OnnxoptError("--log-json: cannot be written: Broken pipe")

    jobs = [Job(Path("slow"), Path("slow.out"), (), tmp_path)]
    started = time.monotonic()
    with pytest.raises(OnnxoptError, match="Broken pipe"), Threads(1) as pool:
        list(batch(COMMAND, jobs, pool, gone))
    assert time.monotonic() - started < 30


def test_models_into_a_folder(tmp_path: Path) -> None:
    """The real command, with a model that is none."""
    onnx.save(mlp(), tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    (tmp_path / "out").mkdir()
    words = ("optimize", "good.onnx", "bad.onnx", "-o", "out", "--lossless", "--jobs", 2)
    done = run(*words, "--json", cwd=tmp_path)
    found = {line["model"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 1
    assert [found[name]["status"] for name in ("good.onnx", "bad.onnx")] == ["met", "failed"]
    assert "bad.onnx: not an ONNX model" in found["bad.onnx"]["reason"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.onnx"]
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 1
    assert "kept" in done.stdout
    assert "bad.onnx: not an ONNX model" in done.stdout


def test_what_cannot_be_asked_of_several(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        onnx.save(mlp(), tmp_path / folder / "model.onnx")
    models = ("optimize", "a/model.onnx", "b/model.onnx", "-o")
    refused(run(*models, "a", cwd=tmp_path), "a/model.onnx: would be the output of two models")
    refused(run(*models, "none", cwd=tmp_path), "none: is no folder, and there are 2 models")
    assert run(*models[:3], cwd=tmp_path).returncode == 2
    onnx.save(mlp(), tmp_path / "b" / "other.onnx")
    done = run("optimize", "a/model.onnx", "b/other.onnx", "-o", "b", "--plan-out", "p", cwd=tmp_path)
    refused(done, "--plan-out and --report name one file")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals between processes")
def test_a_killed_command_leaves_no_half_written_file(tmp_path: Path) -> None:
    """SIGTERM reaches only the command itself."""
    for seed in range(2):
        onnx.save(mlp(512, seed=seed), tmp_path / f"{seed}.onnx")
    (tmp_path / "out").mkdir()
    words = [sys.executable, "-m", "onnxopt.cli", "optimize", "0.onnx", "1.onnx", "-o", "out", "--log-json", "log"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE)
    while "0.onnx: " not in ((tmp_path / "log").read_text() if (tmp_path / "log").exists() else ""):
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert said.decode().startswith("onnxopt: interrupted")
    assert not list((tmp_path / "out").iterdir())
