"""What commands write, and what they leave alone; what they print, and where."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from commanding import refused, run

from break_writing import disturbed
from onnxopt.cli import optimize
from onnxopt.files import write_atomically
from onnxopt.results.result import STATUSES

COMMAND = (sys.executable, "-P", "-c", "from onnxopt.cli import main; main()")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a model, one with external data, inputs, and functions that give inputs."""
    onnx.save(mlp(32), tmp_path / "m.onnx")
    onnx.save(mlp(32), tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).standard_normal((64, 32), np.float32))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hooks(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes the module `own_hooks`."""

    def save(text: str) -> None:
        (here / "own_hooks.py").write_text(f"import os, sys\nimport numpy as np\nX = np.load('d.npz')['x']\n{text}")
        sys.modules.pop("own_hooks", None)

    monkeypatch.setattr(sys, "path", [*sys.path, str(here)])
    yield save
    sys.modules.pop("own_hooks", None)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("optimize m.onnx -o m.onnx", "m.onnx: --output would overwrite m.onnx"),
        ("optimize m.onnx -o link.onnx", "link.onnx: --output would overwrite m.onnx"),
        ("optimize link.onnx -o m.onnx", "m.onnx: --output would overwrite link.onnx"),
        ("optimize e.onnx -o e.data", "e.data: --output would overwrite e.data"),
        ("optimize e.onnx -o o.onnx --report e.data", "e.data: --report would overwrite"),
        ("optimize m.onnx -o o.onnx --plan-out m.onnx", "m.onnx: --plan-out would overwrite"),
        ("optimize m.onnx -o d.npz --data d.npz", "d.npz: --output would overwrite"),
        ("optimize m.onnx -o o.onnx --eval d.npz --report d.npz", "d.npz: --report would overwrite"),
        ("optimize m.onnx -o o.onnx --overrides t.toml --plan-out t.toml", "t.toml: --plan-out would overwrite"),
        ("optimize m.onnx -o o.onnx --plan-out o.onnx", "o.onnx: is named by both --output and --plan-out"),
        ("optimize m.onnx -o o.onnx --plan-out r --report ./r", "r: is named by both --plan-out and --report"),
        ("optimize m.onnx -o o.onnx --plan-out no/p.json", "p.json: cannot be written: there is no folder no"),
        ("optimize m.onnx -o o.onnx --report .", ".: is a folder; name a file"),
        ("optimize m.onnx -o /dev/null", "/dev/null: is a device; name a file"),
        ("optimize pipe -o o.onnx", "pipe: is a pipe, expected a file"),
        ("plan m.onnx -o m.onnx", "m.onnx: --output would overwrite"),
        ("plan m.onnx -o no/p.json", "there is no folder no"),
        ("apply m.onnx p.json -o p.json", "p.json: --output would overwrite"),
        ("apply m.onnx t.toml -o o.onnx", "t.toml: not a plan"),
        ("decompress m.onnx -o m.onnx", "m.onnx: the output would overwrite"),
        ("decompress m.onnx -o no/o.onnx", "there is no folder no"),
        ("sensitivity m.onnx --data d.npz -o d.npz", "d.npz: --output would overwrite"),
        ("compare m.onnx --data d.npz --report d.npz", "d.npz: --report would overwrite"),
        ("report p.json -o p.json", "p.json: --output would overwrite"),
        ("verify pipe", "pipe: is a pipe"),
        ("evaluate dangling --data d.npz", "dangling: cannot be read: it is a link to nowhere"),
        ("benchmark dangling", "dangling: cannot be read: it is a link to nowhere"),
        ("inspect \udcff.onnx", "\\udcff.onnx: is no UTF-8"),
        ("inspect no\nsuch.onnx", "no\\nsuch.onnx: cannot be read"),
    ],
)
def test_nothing_that_is_needed_is_overwritten(here: Path, words: str, message: str) -> None:
    (here / "link.onnx").symlink_to("m.onnx")
    (here / "dangling").symlink_to("nowhere")
    (here / "t.toml").write_text("")
    (here / "p.json").write_text("{}")
    os.mkfifo(here / "pipe")
    before = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()}
    everything = names(here)
    refused(run(*words.split(" ")), message)
    assert names(here) == everything
    assert {path.name: path.read_bytes() for path in here.iterdir() if path.is_file()} == before


@pytest.mark.slow
def test_the_model_and_its_side_files_are_written_together(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("optimize", "m.onnx", "-o", "o.onnx", "--lossless", "--plan-out", "p.json", "--report", "r.html", "--json")
    before = names(here)
    with monkeypatch.context() as patch:
        patch.setattr(optimize, "_SECONDS", 0.05)
        done = run(*words)
        assert done.returncode == 0, done
        result = json.loads(done.stdout)
        assert result["output"] == "o.onnx"
        assert [model["path"] for model in result["benchmark"]["models"]] == ["m.onnx", "o.onnx"]
        assert names(here) == before | {"o.onnx", "p.json", "r.html"}
        assert ".onnxopt-" not in (here / "r.html").read_text()
    for name in ("o.onnx", "p.json", "r.html"):
        (here / name).unlink()

    def fails(path: Path, text: str) -> None:
        with write_atomically(path):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(optimize, "write", fails)
    refused(run(*words), "p.json: cannot be written: No space left on device")
    assert names(here) == before


def test_a_name_may_have_255_bytes(here: Path) -> None:
    longest = "é" * 124 + "xx.onnx"
    assert len(longest.encode()) == 255
    assert run("optimize", "m.onnx", "-o", longest, "--lossless").returncode == 0
    assert run("verify", longest).returncode == 0
    refused(run("optimize", "m.onnx", "-o", f"x{longest}", "--lossless"), "cannot be written: File name too long")


def test_json_is_alone_on_standard_output(here: Path, hooks: Callable[[str], None]) -> None:
    hooks(
        "import atexit\natexit.register(print, 'the end')\nprint('imported')\n"
        "def batches():\n    print('loading')\n    os.system('echo child')\n    yield X[:32]\n    yield X[32:]\n"
    )
    words = ("optimize", "m.onnx", "-o", "o.onnx", "--data", "own_hooks:batches", "--json", "--error", "0.3")
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["status"] == "met"
    for word in ("imported", "loading", "child", "the end"):
        assert word in done.stderr
    done_here = run("evaluate", "m.onnx", "m.onnx", "--data", "own_hooks:batches", "--json")
    assert done_here.stdout, done_here
    assert json.loads(done_here.stdout)["models"]
    assert "loading" in done_here.stderr


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("    return ITERATOR", "gives 0 batches, and gave 2 when the function was called before"),
        ("    yield X[:0]\n    yield X", "batch 1 has no samples"),
        ("    return []", "gives no samples"),
        ("    yield X\n    sys.exit(5)", r"SystemExit: 5 (own_hooks.py, line 9)"),
        ("    raise StopIteration", "StopIteration"),
        ("    yield X\n    raise StopIteration", "(own_hooks.py, line 9)"),
        ("    yield X\n    raise ValueError('two\\nlines')", "ValueError: two (own_hooks.py, line 9)"),
        ("    yield X + len(SEEN)\n    SEEN.append(1)\n    yield X", "batch 1 is not what it was"),
        ("    SEEN.append(1)\n    return [X, X, X, X, X, X][len(SEEN):]", "batches, and gave"),
        ("    SEEN.append(1)\n    return [X] * (len(SEEN) + 1)", "is not what it was"),
        ("    yield X * np.nan", "batch 1: input 'x' holds nan in sample 0"),
        ("    yield [[1], [2, 3]]", "batch 1: ValueError: "),
    ],
)
def test_a_function_at_fault_is_named(here: Path, hooks: Callable[[str], None], body: str, message: str) -> None:
    hooks(f"ITERATOR = iter([X, X])\nSEEN = []\n\ndef batches():\n{body}\n")
    done = run("optimize", "m.onnx", "-o", "o.onnx", "--data", "own_hooks:batches")
    refused(done, "own_hooks:batches: ", message)
    assert not (here / "o.onnx").exists()


def test_the_file_of_a_function_is_not_overwritten(here: Path, hooks: Callable[[str], None]) -> None:
    hooks("def batches():\n    return [X, X]\n")
    done = run("optimize", "m.onnx", "-o", "own_hooks.py", "--data", "own_hooks:batches")
    refused(done, "own_hooks.py: --output would overwrite")


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = " ".join(f"'{word}'" for word in COMMAND)
    return subprocess.run(["bash", "-c", line.replace("ONNXOPT", command)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_standard_output_may_be_gone(here: Path) -> None:
    assert run("optimize", "m.onnx", "-o", "o.onnx", "--lossless").returncode == 0
    done = shell("set -o pipefail; ONNXOPT inspect o.onnx --json | head -c 1; ONNXOPT inspect o.onnx >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "{", "")
    if Path("/dev/full").exists():
        done = shell("ONNXOPT inspect o.onnx >/dev/full")
        assert done.returncode == 1
        assert done.stderr == "onnxopt: standard output cannot be written: No space left on device\n"


def test_the_status_of_a_result(here: Path) -> None:
    def status(*words: str) -> str:
        done = run("optimize", "m.onnx", "-o", "o.onnx", "--json", *words)
        return str(json.loads(done.stdout)["status"])

    assert status("--error", "0.3") == "met"
    assert status("--target-size", "300", "--allow-miss") == "missed"
    tiny = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Relu", ["x"], ["y"])], "g",
            [onnx.helper.make_tensor_value_info("x", 1, ["n", 4])],
            [onnx.helper.make_tensor_value_info("y", 1, ["n", 4])],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    onnx.save(tiny, "m.onnx")
    assert status("--lossless") == "unchanged"
    assert {"met", "missed", "unchanged"} < set(STATUSES)


def test_memory_that_runs_out_is_one_sentence(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr("onnxopt.runtime.archive.read", fails)
    refused(run("inspect", "m.onnx"), "not enough memory")


@pytest.mark.slow
def test_no_half_written_file_is_left() -> None:
    for count in disturbed(10):
        assert count.half == 0, count
        assert count.new + count.old + count.mixed == count.runs


@pytest.mark.parametrize("name", ["[b]w[c].onnx", "[", "[/x]", ":smile:", "\x1b[31mred", "two\nlines", "'\"`$&"])
def test_names_are_texts_like_any_other(here: Path, name: str) -> None:
    output = here / f"{name.replace('/', '')}.onnx"
    model = mlp(32)
    model.graph.node[0].input[1] = model.graph.initializer[0].name = name
    onnx.save(model, here / "named.onnx")
    done = run("optimize", "named.onnx", "-o", output.name, "--lossless")
    assert done.returncode == 0, done
    shown = run("inspect", output.name, "--json")
    assert json.loads(shown.stdout)["path"] == output.name
    assert name in {entry["name"] for entry in json.loads(shown.stdout)["entries"]}
    if name.isprintable():
        assert output.name in run("inspect", output.name).stdout
