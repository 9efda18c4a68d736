"""The commands in the README and the guide work and print what they show."""

from __future__ import annotations

import html
import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from commanding import run

import onnxopt
from tables import sessions
from train_digits import split

ROOT = Path(__file__).resolve().parents[1]
README, GUIDE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/guide.md"))


SESSION = re.compile(r"<!-- session:(\w+) -->\n```console\n(.*?)\n```\n<!-- /session -->", re.DOTALL)
SHOWN = dict(SESSION.findall(README + GUIDE))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> sessions.Folder:
    return sessions.Folder(tmp_path_factory.mktemp("readme"))


@pytest.fixture(scope="module")
def picture(folder: sessions.Folder) -> str:
    return folder.picture(sessions.OPTIMIZE)


def without_numbers(text: str) -> list[str]:
    """Sizes, errors and seconds may differ in the last digit between machines, column widths with them."""
    return re.sub(r"[-+\d.]+|significant", " ", text).split()


def words(svg: str) -> set[str]:
    """How many tries there are is another number."""
    texts = " ".join(html.unescape(text) for text in re.findall(r">([^<>]+)</text>", svg))
    return {word for word in texts.split() if re.match(r"[A-Za-z($]", word)}


def test_the_picture_shows_what_is_printed(picture: str) -> None:
    shown = sessions.PICTURE.read_text(encoding="utf-8")
    assert words(picture) == words(shown)
    assert {"$", "dense1.weight", "(graph", "written", "asked", "smaller"} <= words(shown)
    assert not re.search(r"url\((?!#)|@import|<script|<image", shown)


@pytest.mark.parametrize("name", [name for name in sessions.SESSIONS if name != "benchmark"])
def test_the_sessions_print_what_is_shown(name: str, folder: sessions.Folder, picture: str) -> None:
    printed = "\n".join(map(folder.text, sessions.SESSIONS[name]))
    assert without_numbers(printed) == without_numbers(SHOWN[name])


@pytest.mark.slow
@pytest.mark.alone
def test_the_benchmark_prints_what_is_shown(folder: sessions.Folder, picture: str) -> None:
    """The machine is another one, and the verdict as well; so a fraction of the time will do."""
    (command,) = sessions.SESSIONS["benchmark"]
    outlines = []
    for text in (folder.text(command.replace(" | ", " --seconds 10 | ")), SHOWN["benchmark"]):
        lines = text.partition("\n\n")[2].splitlines()
        assert len(lines) > 6
        headers = [without_numbers(line) for line in lines if line.startswith(("model", "latency"))]
        outlines.append((headers, [line.split(" ")[0] for line in lines]))
    assert outlines[0] == outlines[1]
    assert SHOWN["benchmark"].startswith(f"$ {command}\n")


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(mlp(), tmp_path / "model.onnx")
    onnxopt.optimize(tmp_path / "model.onnx", tmp_path / "small.onnx")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(README.partition("```python\n")[2].partition("```")[0], names)
    assert names["session"].get_outputs()[0].name == "y"  # type: ignore[attr-defined]


def test_the_guides_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.onnx").write_bytes((ROOT / "models" / "digits.onnx").read_bytes())
    images, labels, _, _ = split()
    np.savez(tmp_path / "train.npz", input=images[:300], labels=labels[:300])
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"^```python\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)[::-1]:
        exec(block, {})
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize("command", re.findall(r"^\| `onnxopt (\w+)", GUIDE, re.MULTILINE))
def test_every_command_listed_exists(command: str) -> None:
    assert run(command, "--help").returncode == 0


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]), ids=lambda page: page.name
)
def test_every_file_linked_exists(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150
