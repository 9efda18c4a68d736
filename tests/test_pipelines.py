"""What docs/pipelines.md and the GitHub Action say works: the Makefile is run, and the steps of the action."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp

from common.lessons import run_by
from common.realdata import plain_session

yaml = pytest.importorskip("yaml", reason="needs PyYAML to read the action")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("bash") is None or shutil.which("make") is None, reason="needs bash and make"),
]

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with a model."""
    (tmp_path / "models").mkdir()
    onnx.save(mlp(), tmp_path / "models" / "a.onnx")
    entry = mlp().graph.input[0]
    x = np.random.default_rng(0).normal(size=(400, entry.type.tensor_type.shape.dim[-1].dim_value)).astype(np.float32)
    (scores,) = plain_session(tmp_path / "models" / "a.onnx").run(None, {entry.name: x})
    np.savez(tmp_path / "train.npz", labels=scores.argmax(1), **{entry.name: x})
    command = tmp_path / "bin" / "onnxopt"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m onnxopt.cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(folder: Path, *words: str, **environment: str) -> str:
    path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
    done = subprocess.run(
        words, cwd=folder, env={**os.environ, "PATH": path, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


def test_make_makes_what_is_stale(folder: Path) -> None:
    text = (ROOT / "docs/pipelines.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"<!-- make -->\n```make\n(.*?)```", text, re.DOTALL)
    (folder / "Makefile").write_text(found)
    run(folder, "make", "OPTIONS=--lossless", "compressed")
    made = (folder / "out" / "a.onnx").stat().st_mtime_ns
    said = run(folder, "make", "OPTIONS=--lossless", "compressed")
    assert "is what this request makes" in said
    assert (folder / "out" / "a.onnx").stat().st_mtime_ns == made


def test_the_steps_of_the_action(folder: Path) -> None:
    action = yaml.safe_load((ROOT / ".github" / "actions" / "optimize" / "action.yml").read_text(encoding="utf-8"))
    (page,) = run_by("tests/test_pipelines.py", "docs/pipelines.md")
    given = next(step for step in yaml.safe_load(page.text)["steps"] if step["uses"].startswith("./"))["with"]
    inputs = {name: given.get(name, one.get("default")) for name, one in action["inputs"].items()}
    (folder / "bin" / "python").write_text('#!/bin/sh\necho "$@" > installed\n')  # pip would ask the network
    (folder / "bin" / "python").chmod(0o755)
    runner = {"GITHUB_OUTPUT": str(folder / "outputs"), "RUNNER_TEMP": str(folder)}
    for step in action["runs"]["steps"]:
        environment = {
            name: re.sub(r"\${{ inputs\.(\w+) }}", lambda found: inputs[found[1]], value)
            for name, value in step["env"].items()
        }
        run(folder, "bash", "-e", "-o", "pipefail", "-c", step["run"], **environment, **runner)
    assert (folder / "installed").read_text() == "-m pip install --quiet onnxopt\n"
    assert [path.name for path in (folder / "out").iterdir()] == ["a.onnx"]
    (output,) = (folder / "outputs").read_text().splitlines()
    assert output.startswith("summary=")
    assert Path(output.removeprefix("summary=")).read_text().count('"status": "met"') == 1
