"""The command line, as users type it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import cnn, mlp
from commanding import Done, refused, run


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "model.onnx"
    onnx.save(mlp(128), path)
    return path


@pytest.fixture(scope="module")
def small(source: Path) -> Path:
    path = source.with_name("small.onnx")
    done = run("optimize", source, "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def test_optimize_prints_the_table(source: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    done = run("optimize", source, "-o", small)
    assert done.returncode == 0
    assert not done.stderr
    for word in ("fc1", "128x256", "bits", "smaller than fp32", "than fp16", "noise over signal"):
        assert word in done.stdout, word
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert small.stat().st_size < source.stat().st_size / 4


def test_optimize_gives_json_and_the_same_bytes(source: Path, small: Path, tmp_path: Path) -> None:
    result = json.loads(run("optimize", source, "-o", tmp_path / "again.onnx", "--json").stdout)
    assert (tmp_path / "again.onnx").read_bytes() == small.read_bytes()
    assert result["bytes_before"] == source.stat().st_size
    assert result["bytes_after"] == small.stat().st_size
    assert sum(event["bytes_after"] for event in result["events"]) == small.stat().st_size
    assert result["plan"]["steps"].keys() == {"fc1", "fc2"}


def test_plan_edit_apply(source: Path, small: Path, tmp_path: Path) -> None:
    plan, applied = tmp_path / "plan.json", tmp_path / "applied.onnx"
    assert run("plan", source, "-o", plan).returncode == 0
    assert plan.read_text() == run("plan", source).stdout
    assert run("apply", source, plan, "-o", applied).returncode == 0
    first, second = onnx.load(small), onnx.load(applied)
    del first.metadata_props[:]  # that say which request made it
    assert first == second
    document = json.loads(plan.read_text())
    document["steps"]["fc1"] = "uniform{error=0.2}"
    del document["steps"]["fc2"]
    plan.write_text(json.dumps(document))
    done = run("apply", source, plan, "-o", applied, "--json")
    events = {event["path"]: event for event in json.loads(done.stdout)["events"]}
    assert events["fc1"]["error"] == pytest.approx(0.2, rel=0.15)
    assert events["fc2"]["step"] == "lossless"
    assert events["fc2"]["error"] == 0


def test_inspect_verify_decompress_library(small: Path, tmp_path: Path) -> None:
    shown = run("inspect", small)
    assert shown.returncode == 0
    assert "feedback{slope=" in shown.stdout
    assert "bytes by codec" in shown.stdout
    assert {e["name"] for e in json.loads(run("inspect", small, "--json").stdout)["entries"]} >= {"fc1", "fc2"}
    checked = run("verify", small)
    assert checked.returncode == 0
    assert "ok" in checked.stdout
    assert "identical" in checked.stdout
    plain = tmp_path / "plain.onnx"
    assert run("decompress", small, "-o", plain).returncode == 0
    onnxruntime.InferenceSession(str(plain))
    assert Path(run("library").stdout.strip()).is_file()
    assert Path(json.loads(run("library", "--json").stdout)["library"]).is_file()
    assert json.loads(run("verify", small, "--json").stdout)["identical_outputs"] is True
    done = json.loads(run("decompress", small, "-o", plain, "--json").stdout)
    assert done == {"output": str(plain), "bytes": plain.stat().st_size}


def test_lossless_keeps_every_bit(source: Path, tmp_path: Path) -> None:
    small, plain = tmp_path / "l.onnx", tmp_path / "p.onnx"
    assert run("optimize", source, "-o", small, "--lossless").returncode == 0
    run("decompress", small, "-o", plain)
    wanted = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(source).graph.initializer}
    got = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(plain).graph.initializer}
    assert wanted.keys() == got.keys()
    assert all(np.array_equal(wanted[name], got[name]) for name in wanted)


def test_bad_input_is_one_sentence(source: Path, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    refused(run("optimize", tmp_path / "none.onnx", "-o", out), "none.onnx", "No such file")
    (tmp_path / "text.onnx").write_text("this is no model, just some text that goes on for a while")
    refused(run("optimize", tmp_path / "text.onnx", "-o", out), "text.onnx")
    (tmp_path / "empty.onnx").write_bytes(b"")
    refused(run("optimize", tmp_path / "empty.onnx", "-o", out), "empty.onnx")
    (tmp_path / "cut.onnx").write_bytes(source.read_bytes()[:-500])
    refused(run("optimize", tmp_path / "cut.onnx", "-o", out), "cut.onnx")
    refused(run("optimize", small, "-o", out), "compressed already")
    refused(run("optimize", source, "-o", out, "--error", 7), "--error is 7")
    refused(run("optimize", source, "-o", tmp_path / "no" / "folder.onnx"), "folder.onnx", "cannot be written")
    refused(run("plan", source, "-o", tmp_path), "is a folder")
    refused(run("verify", source), "plain ONNX model")
    refused(run("inspect", source), "plain ONNX model")
    refused(run("apply", source, source, "-o", out), "cannot be read")
    onnx.save(cnn(), tmp_path / "other.onnx")
    plan = tmp_path / "plan.json"
    run("plan", source, "--lossless", "-o", plan)
    refused(run("apply", tmp_path / "other.onnx", plan, "-o", out), "another model", "onnxopt plan")
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_wrong_usage_exits_2(source: Path) -> None:
    assert run("optimize", source).returncode == 2
    assert run("nonsense").returncode == 2


def test_version_and_help() -> None:
    assert run("--version").stdout.strip()
    for command in ("optimize", "plan", "apply", "inspect", "verify", "decompress", "library", "evaluate"):
        assert run(command, "--help").returncode == 0


def test_the_installed_command_works(source: Path) -> None:
    installed = Path(sys.executable).with_name("onnxopt")
    for words in ([installed], [sys.executable, "-m", "onnxopt"]):
        done = subprocess.run([*words, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == run("--version").stdout
        assert not done.stderr
    done = subprocess.run([installed, "verify", source], capture_output=True, text=True, check=False)
    refused(Done(done.returncode, done.stdout, done.stderr), "plain ONNX model")


def test_alone_it_shows_the_commands_to_start_with() -> None:
    done = run()
    assert done.returncode == 0
    assert [word for word in ("optimize", "evaluate", "benchmark") if f"  onnxopt {word} model.onnx" in done.stdout]
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("begun", "ends"), [("opt", "optimize"), ("optimize --max-d", "--max-drop"),
                                             ("optimize --metric to", "top1")])  # fmt: skip
def test_shells_complete_commands_options_and_values(begun: str, ends: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ONNXOPT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"onnxopt {begun}")
    monkeypatch.setenv("COMP_CWORD", str(len(begun.split())))
    assert ends in run().stdout.split()


@pytest.mark.parametrize(("words", "near"), [
    (["--metric", "topp1", "--max-drop", "1"], "did you mean top1?"),
    (["--recipe", "deep-compresion"], "did you mean deep-compression?"),
    (["--for", "speed", "--device", "cpu-arn"], "did you mean cpu-arm?"),
    (["--data", "trian.npz"], "did you mean train.npz?"),
])  # fmt: skip
def test_an_error_names_what_is_nearest(words: list[str], near: str, tmp_path: Path) -> None:
    onnx.save(mlp(), tmp_path / "model.onnx")
    (tmp_path / "train.npz").touch()
    refused(run("optimize", "model.onnx", "-o", "small.onnx", *words, cwd=tmp_path), near)
    refused(run("optimize", "modle.onnx", "-o", "small.onnx", cwd=tmp_path), "did you mean model.onnx?")


@pytest.mark.parametrize(
    ("words", "near"),
    [
        (("--max-dorp", 1), "--max-drop"),
        (("--effort", "fastt"), "did you mean fast?"),
        (("--for", "sped"), "did you mean speed?"),
        (("--recipe", "deep-compresion"), "did you mean deep-compression?"),
        (("--metric", "topp1", "--max-drop", 1), "did you mean top1?"),
    ],
)
def test_errors_name_the_nearest_option(words: tuple[object, ...], near: str) -> None:
    done = run("optimize", "no.onnx", "-o", "small.onnx", *words)
    assert done.returncode != 0
    assert near in " ".join(done.stderr.replace("│", " ").split())


def test_no_color_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everywhere: results and usage errors."""
    onnx.save(mlp(), tmp_path / "m.onnx")

    def coloured() -> list[str]:
        result = run("optimize", tmp_path / "m.onnx", "-o", tmp_path / "s.onnx", "--lossless")
        said = [result, run("optimize", "--max-dorp", 1), run("optimize", "--help")]
        return [text for done in said for text in re.findall(r"\x1b\[[0-9;]*m", done.stdout + done.stderr)]

    monkeypatch.setenv("FORCE_COLOR", "1")
    assert any(re.search(r"[39]\dm", one) for one in coloured())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not any(re.search(r"[39]\dm", one) for one in coloured())
