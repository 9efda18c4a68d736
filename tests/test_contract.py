"""The contract is met, or nothing is written and one sentence says how close the best try came."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import mlp
from commanding import unstamped

import onnxopt
import train_digits
from onnxopt import cli, native
from onnxopt.graph import payload

DIGITS = Path(__file__).resolve().parents[1] / "models" / "digits.onnx"


@dataclass(frozen=True, slots=True)
class Said:
    """What a command left on the terminal."""

    code: int
    out: str
    error: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))

    def refused(self, *words: str, code: int = 1) -> None:
        assert self.code == code
        assert not self.out
        (line,) = self.error.splitlines()
        assert line.startswith("onnxopt: ")
        for word in words:
            assert word in line, (word, line)


Type = Callable[..., Said]


@pytest.fixture
def type_(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Type:
    """Runs a command line as `onnxopt` does."""

    def typed(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["onnxopt", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return Said(int(end.value.code or 0), *capsys.readouterr())

    return typed


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of images with labels: to calibrate on, to test on."""
    folder = tmp_path_factory.mktemp("digits")
    train, train_labels, test, test_labels = train_digits.split()
    np.savez(folder / "train.npz", input=train, labels=train_labels)
    np.savez(folder / "test.npz", input=test, labels=test_labels)
    return folder / "train.npz", folder / "test.npz"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "out.onnx"


@pytest.fixture(autouse=True)
def _folder(out: Path) -> None:
    out.parent.mkdir()


def accuracy(path: Path, test: Path) -> float:
    stored = np.load(test)
    scores = onnxopt.load(path).run(None, {"input": stored["input"]})[0]
    return 100 * float((scores.argmax(1) == stored["labels"]).mean())


def weights(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What the loader decodes."""
    with native.Container(payload(onnx.load(path))) as container:
        return container.decode()


@pytest.mark.parametrize("ratio", [6, 25])
def test_a_ratio_is_reached_and_not_exceeded(type_: Type, out: Path, ratio: int) -> None:
    assert type_("optimize", DIGITS, "-o", out, "--target-ratio", ratio).code == 0
    assert 0.98 * DIGITS.stat().st_size / ratio <= out.stat().st_size <= DIGITS.stat().st_size / ratio


def test_a_size_is_reached_and_not_exceeded(type_: Type, digits: tuple[Path, Path], out: Path) -> None:
    train, test = digits
    said = type_("optimize", DIGITS, "-o", out, "--target-size", "40kB", "--data", train, "--eval", test, "--json")
    assert said.code == 0
    assert 39_200 <= out.stat().st_size <= 40_000
    assert said.json["met"]
    assert said.json["check"]["found"]["samples"] == len(np.load(test)["labels"])


@pytest.mark.slow
def test_a_drop_is_kept_on_data_that_nothing_saw(type_: Type, digits: tuple[Path, Path], out: Path) -> None:
    train, test = digits
    sizes = []
    for most in (0, 0.5, 5):
        command = ("optimize", DIGITS, "-o", out, "--data", train, "--eval", test, "--max-drop", most)
        said = type_(*command, "--json")
        if said.code == 3:  # the test part decides, and nothing that it says changes what is written
            said.refused("is missed on", str(test), "nothing was written", code=3)
            assert not list(out.parent.iterdir())
            assert most > 0
            continue
        assert said.code == 0
        before, after = accuracy(DIGITS, test), accuracy(out, test)
        assert before - after <= most + 1e-9
        found = said.json["check"]["found"]
        assert (found["before"], found["after"]) == (pytest.approx(before), pytest.approx(after))
        assert found["drop"] == pytest.approx(before - after)
        sizes.append(out.stat().st_size)
        out.unlink()
    assert sizes[0] < DIGITS.stat().st_size / 1.1
    assert sizes[-1] < 0.5 * sizes[0]


IMPOSSIBLE = {
    "size": ("--target-size", "300"),
    "drop": ("--max-drop", "1e-30", "--metric", "mse"),
    "error": ("--error", "1e-30"),
}


@pytest.fixture
def tiny(tmp_path: Path) -> tuple[Path, Path]:
    """A model and data for it."""
    onnx.save(mlp(32), tmp_path / "tiny.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((256, 32)).astype(np.float32))
    return tmp_path / "tiny.onnx", tmp_path / "x.npy"


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_met_is_not_written(type_: Type, tiny: tuple[Path, Path], out: Path, name: str) -> None:
    model, data = tiny
    said = type_("optimize", model, "-o", out, "--data", data, *IMPOSSIBLE[name])
    words = {"size": ("at most 300 bytes",), "drop": ("mse", "a drop of"), "error": ("noise over signal",)}[name]
    said.refused("tiny.onnx", *words, "cannot be met", "bytes", "nothing was written", "--allow-miss", code=3)
    assert not list(out.parent.iterdir())
    type_("plan", model, "--data", data, *IMPOSSIBLE[name]).refused("cannot be met", code=3)


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_comes_nearest_is_written_where_it_may_be(
    type_: Type, tiny: tuple[Path, Path], out: Path, name: str
) -> None:
    model, data = tiny
    said = type_("optimize", model, "-o", out, "--data", data, *IMPOSSIBLE[name], "--allow-miss", "--json")
    assert said.code == 3
    assert not said.error
    assert said.json["met"] is False
    assert said.json["bytes_after"] == out.stat().st_size
    nearest = min(said.json["trials"], key=lambda trial: trial[name])
    assert nearest["size"] == out.stat().st_size
    assert onnxopt.verify(out).identical_outputs
    said = type_("optimize", model, "-o", out, "--data", data, *IMPOSSIBLE[name], "--allow-miss")
    assert said.code == 3
    assert "MISSED" in said.out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--max-drop", "1", "--target-size", "1MB"), ("--max-drop and --target-size", "contradict")),
        (("--target-ratio", "4", "--error", "0.1"), ("--target-ratio and --error", "contradict")),
        (("--lossless", "--error", "0.1"), ("--error and --lossless", "contradict")),
        (("--max-drop", "-1"), ("--max-drop is -1", "0 or more")),
        (("--max-drop", "nan"), ("--max-drop is nan",)),
        (("--error", "7"), ("--error is 7",)),
        (("--error", "nan"), ("--error is nan",)),
        (("--target-ratio", "0.5"), ("--target-ratio is 0.5", "more than 1")),
        (("--target-size", "big"), ("--target-size is 'big'", "2MB")),
        (("--target-size", "0"), ("--target-size is '0'",)),
        (("--target-size", "1.2.3MB"), ("--target-size",)),
        (("--max-ram", "1 parsec"), ("--max-ram is '1 parsec'", "1GiB")),
        (("--max-ram", "0"), ("--max-ram is '0'",)),
        (("--max-drop", "1", "--metric", "beauty"), ("beauty", "top1")),
        (("--data", "nowhere.npz"), ("nowhere.npz", "no such file")),
        (("--data", str(DIGITS)), ("digits.onnx", "is no data")),
        (("--data", ".", "--mean", "a,b"), ("--mean is 'a,b'",)),
        (("--data", "no_such_module_at_all:batches"), ("no_such_module_at_all",)),
        (("--eval", "nowhere.npz"), ("nowhere.npz",)),
        (("--overrides", "nowhere.toml"), ("nowhere.toml", "cannot be read")),
    ],
    ids=" ".join,
)
def test_what_cannot_be_asked_for_is_one_sentence(
    type_: Type, out: Path, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    type_("optimize", DIGITS, "-o", out, *options).refused(*words)
    assert not list(out.parent.iterdir())


def test_data_that_the_model_does_not_take_is_named(type_: Type, digits: tuple[Path, Path], out: Path) -> None:
    wrong = out.with_name("wrong.npz")
    np.savez(wrong, input=np.zeros((64, 3, 8, 8), np.float32))
    type_("optimize", DIGITS, "-o", out, "--data", wrong).refused("wrong.npz", "input")
    np.savez(wrong, input=np.zeros((64, 1, 8, 8), np.float32), labels=np.full(64, 10))
    type_("optimize", DIGITS, "-o", out, "--data", wrong, "--max-drop", 1).refused("top1", "label 10")
    assert not out.exists()


def test_rules_for_single_weights_are_kept(type_: Type, out: Path) -> None:
    rules = out.with_name("rules.toml")
    rules.write_text(
        '[[rule]]\nmatch = "conv1.*"\nskip = true\n'
        '[[rule]]\nmatch = "dense1.weight"\nmax_bits = 3\n'
        '[[rule]]\nmatch = "dense2.weight"\nerror = 0.02\n'
    )
    assert type_("optimize", DIGITS, "-o", out, "--error", 0.3, "--overrides", rules).code == 0
    original = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(DIGITS).graph.initializer}
    stored = weights(out)
    plain = {t.name: onnx.numpy_helper.to_array(t) for t in onnxopt.decompress(out).graph.initializer}
    for path in ("conv1.weight", "conv1.bias"):
        assert plain[path].tobytes() == original[path].tobytes()
    for row in stored["dense1.weight"]:
        assert len(np.unique(row)) <= 7  # |q| < 4
    change = stored["dense2.weight"] - original["dense2.weight"]
    assert np.linalg.norm(change) / np.linalg.norm(original["dense2.weight"]) == pytest.approx(0.02, rel=0.1)
    steps = onnxopt.inspect(out).plan.steps
    assert set(original) - set(steps) >= {"conv1.weight", "conv1.bias"}
    assert str(steps["dense2.weight"]) == "uniform{error=0.02}"
    rules.write_text('[[rule]]\nmatch = "dense7.*"\nskip = true\n')
    type_("optimize", DIGITS, "-o", out, "--overrides", rules).refused("dense7.*", "matches no weight")


@pytest.mark.slow
def test_rules_make_chains_of_layers(type_: Type, digits: tuple[Path, Path], out: Path) -> None:
    rules, plan, again = (out.with_name(name) for name in ("rules.toml", "plan.json", "again.onnx"))
    rules.write_text(
        '[[rule]]\nmatch = "dense1.weight"\nstep = "svd{rank=40}"\n'
        '[[rule]]\nmatch = "dense1.weight@u"\nmax_bits = 3\n'
        '[[rule]]\nmatch = "conv2.weight"\nstep = "tucker{in=12,out=24}"\n'
        '[[rule]]\nmatch = "dense2.weight"\nstep = "svd{rank=11}"\n'
    )
    asked = ("--target-ratio", 40, "--data", digits[0])
    done = type_("optimize", DIGITS, "-o", out, *asked, "--overrides", rules, "--plan-out", plan)
    assert done.code == 0
    assert "dense2.weight: not factored: rank is 11, but the weight has no more than 10" in done.out
    plain = {t.name: onnx.numpy_helper.to_array(t) for t in onnxopt.decompress(out).graph.initializer}
    shapes = {name: values.shape for name, values in plain.items() if "@" in name}
    assert shapes == {
        "dense1.weight@v": (40, 768), "dense1.weight@u": (128, 40), "conv2.weight@in": (12, 24, 1, 1),
        "conv2.weight@core": (24, 12, 3, 3), "conv2.weight@out": (48, 24, 1, 1),
    }  # fmt: skip
    for row in plain["dense1.weight@u"]:
        assert len(np.unique(row)) <= 7
    assert type_("apply", DIGITS, plan, "-o", again, "--data", digits[0]).code == 0
    assert unstamped(again) == unstamped(out)
    rules.write_text('[[rule]]\nop = "Gemm"\nstep = "svd{tolerance=0.1}"\n')
    assert type_("optimize", DIGITS, "-o", out, *asked, "--overrides", rules, "--plan-out", plan).code == 0
    steps = {path: step for path, step in json.loads(plan.read_text())["steps"].items() if step.startswith("svd")}
    assert steps.keys() == {"dense1.weight", "dense2.weight"}
    assert all(re.fullmatch(r"svd{rank=\d+}", step) for step in steps.values())
    assert type_("apply", DIGITS, plan, "-o", again, "--data", digits[0]).code == 0
    assert unstamped(again) == unstamped(out)
    plan.write_text(plan.read_text().replace(steps["dense1.weight"], "svd{tolerance=0.1}"))
    assert type_("apply", DIGITS, plan, "-o", again, "--data", digits[0]).code == 0
    assert unstamped(again) == unstamped(out)
    rules.write_text('[[rule]]\nmatch = "dense1.weight"\nstep = "svd{rank=4} > uniform{error=0.1}"\n')
    type_("optimize", DIGITS, "-o", again, "--overrides", rules).refused("nothing can follow svd")
    rules.write_text('[[rule]]\nmatch = "dense1.weight"\nstep = "prune{keep=0.2} > codebook{k=16}"\n')
    assert type_("optimize", DIGITS, "-o", again, "--overrides", rules, "--error", 0.5).code == 0
    values = weights(again)["dense1.weight"]
    assert np.count_nonzero(values) / values.size == pytest.approx(0.2, abs=0.01)
    assert len(np.unique(values)) <= 16


@pytest.mark.slow
def test_a_plan_that_was_written_gives_the_same_file(type_: Type, digits: tuple[Path, Path], out: Path) -> None:
    plan, again, other = (out.with_name(name) for name in ("plan.json", "again.onnx", "other.npz"))
    asked = ("--error", 0.05, "--data", digits[0])
    assert type_("optimize", DIGITS, "-o", out, *asked, "--plan-out", plan).code == 0
    assert type_("apply", DIGITS, plan, "-o", again, "--data", digits[0]).code == 0
    assert unstamped(again) == unstamped(out)
    assert plan.read_text() == type_("plan", DIGITS, *asked).out
    again.unlink()
    stored = np.load(digits[0])
    np.savez(other, input=stored["input"][:-1], labels=stored["labels"][:-1])
    for data in ((), ("--data", other), ("--data", digits[1])):
        type_("apply", DIGITS, plan, "-o", again, *data).refused("other data", "--data")
        assert not again.exists()


@pytest.mark.parametrize("with_data", [False, True])
@pytest.mark.slow
def test_two_runs_give_identical_bytes(
    type_: Type, digits: tuple[Path, Path], out: Path, monkeypatch: pytest.MonkeyPatch, with_data: bool
) -> None:
    """Wherever the model and the data lie."""
    again, moved = out.with_name("again.onnx"), out.with_name("moved.npz")
    moved.write_bytes(digits[0].read_bytes())
    assert (
        type_("optimize", DIGITS, "-o", out, *(("--data", digits[0], "--max-drop", "3") if with_data else ())).code == 0
    )
    monkeypatch.chdir(out.parent)
    asked = ("--data", moved.name, "--max-drop", "3") if with_data else ()
    assert type_("optimize", DIGITS, "-o", again.name, *asked).code == 0
    assert again.read_bytes() == out.read_bytes()


def test_all_samples_say_what_a_metric_drops_by(out: Path) -> None:
    """Each sample is one number, and a metric sees what it is measured on: all, and what the jackknife leaves."""
    made, seen = mlp(16), []

    def batches() -> list[tuple[dict[str, Any], Any]]:
        x = np.random.default_rng(0).standard_normal((160, 16)).astype(np.float32)
        return [({"x": x[i : i + 8]}, np.arange(i, i + 8)) for i in range(0, 160, 8)]

    def score(outputs: list[Any], labels: Any) -> float:
        seen.append(frozenset(labels.tolist()))
        return 1.0

    onnx.save(made, out.with_name("m.onnx"))
    contract = onnxopt.Contract(max_drop=0.1, metric=score)
    result = onnxopt.optimize(out.with_name("m.onnx"), out, contract, batches)
    every = frozenset(range(160))
    assert seen[0] == every
    parts = {every - one for one in seen if one != every}
    assert len(parts) == 8
    assert sum(map(len, parts)) == len(frozenset().union(*parts)) == 160
    assert result.check is not None
    assert result.check.found.samples == 160
