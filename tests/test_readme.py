"""What the README says a user types works, and prints what it shows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from builders import mlp

import onnxopt

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import readme_session

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def without_numbers(text: str) -> str:
    """Sizes, errors and seconds may differ in the last digit between machines, column widths and tries with them."""
    text = re.sub(r"^ *[\d.]+e-\d+ .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"[\d.]+|\s+", " ", text).replace("  ", " ")


def test_the_session_prints_what_is_shown() -> None:
    shown = README.partition("```console\n")[2].partition("\n```")[0]
    assert without_numbers(readme_session.session()) == without_numbers(shown)


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp(), tmp_path / "model.onnx")
    onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(README.partition("```python\n")[2].partition("```")[0], names)
    assert names["session"].get_outputs()[0].name == "y"  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", re.findall(r"^\| `onnxopt (\w+)", README, re.MULTILINE))
def test_every_command_listed_exists(command: str) -> None:
    program = Path(sys.executable).with_name("onnxopt")
    subprocess.run([program, command, "--help"], check=True, capture_output=True)


def test_every_file_linked_exists() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []
