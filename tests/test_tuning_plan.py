"""Tuned values beside a plan: what `apply` needs of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp, weights
from commanding import refused, run

import onnxopt
from onnxopt import Contract, OnnxoptError
from onnxopt.build import tuned_values
from onnxopt.encoding import Affine, Codebook, Encoding, Raw
from onnxopt.spec.plan import Plan, Step


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small network, samples, a tuned file, its plan and its values."""
    folder = tmp_path_factory.mktemp("made")
    onnx.save(mlp(64), folder / "small.onnx")
    np.save(folder / "x.npy", weights(1024, 64, seed=5))
    done = onnxopt.optimize(folder / "small.onnx", folder / "tuned.onnx", Contract(target_ratio=12), folder / "x.npy",
                            tune="15epochs")  # fmt: skip
    assert done.plan.values
    (folder / "plan.json").write_text(done.plan.to_json())
    (folder / "plan.values").write_bytes(tuned_values.packed(done.values))
    return folder


def test_apply_gives_the_same_bytes(made: Path) -> None:
    plan = Plan.from_json((made / "plan.json").read_text())
    onnxopt.apply(made / "small.onnx", plan, made / "same.onnx", made / "x.npy", made / "plan.values")
    assert (made / "same.onnx").read_bytes() == (made / "tuned.onnx").read_bytes()


def test_the_command_finds_the_values_beside_the_plan(made: Path) -> None:
    done = run("optimize", made / "small.onnx", "-o", made / "a.onnx", "--data", made / "x.npy", "--target-ratio", 12,
               "--tune", "15epochs", "--plan-out", made / "own.json")  # fmt: skip
    assert done.returncode == 0, done
    done = run("apply", made / "small.onnx", made / "own.json", "-o", made / "b.onnx", "--data", made / "x.npy")
    assert done.returncode == 0, done
    onnxopt.apply(made / "small.onnx", Plan.from_json((made / "own.json").read_text()), made / "c.onnx",
                  made / "x.npy", made / "own.values")  # fmt: skip
    assert (made / "c.onnx").read_bytes() == (made / "b.onnx").read_bytes()
    plain = [onnxopt.decompress(made / name) for name in ("a.onnx", "b.onnx")]  # the first says where it is from
    assert plain[0].graph == plain[1].graph


def test_missing_damaged_and_other_values_are_refused(made: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text((made / "plan.json").read_text())
    words = ["apply", made / "small.onnx", plan, "-o", tmp_path / "out.onnx", "--data", made / "x.npy"]
    refused(run(*words), "plan.values: cannot be read", "optimize --tune --plan-out")
    (tmp_path / "plan.values").write_bytes((made / "plan.values").read_bytes()[:-3])
    refused(run(*words), "plan.values: holds no values of tuned weights")
    values = {**tuned_values.read(made / "plan.values")}
    values.popitem()
    (tmp_path / "plan.values").write_bytes(tuned_values.packed(values))
    refused(run(*words), "plan.values: the digest is", "the plan has")
    assert not (tmp_path / "out.onnx").exists()


def test_without_values_a_plan_says_what_is_missing(made: Path, tmp_path: Path) -> None:
    plan = Plan.from_json((made / "plan.json").read_text())
    with pytest.raises(OnnxoptError, match="the plan is of tuned weights, whose values it does not hold"):
        onnxopt.apply(made / "small.onnx", plan, tmp_path / "out.onnx", made / "x.npy")
    untuned = onnxopt.plan(made / "small.onnx", Contract(error=0.2), made / "x.npy")
    path, step = next(iter(untuned.steps.items()))
    by_hand = replace(untuned, steps={**untuned.steps, path: Step.parse(f"{step} > tuned")})
    with pytest.raises(OnnxoptError, match="its values were tuned, and a plan does not hold them"):
        onnxopt.apply(made / "small.onnx", by_hand, tmp_path / "out.onnx", made / "x.npy")


def test_values_of_all_kinds_come_back(tmp_path: Path) -> None:
    drawn = np.random.default_rng(0)
    q = drawn.integers(-9, 9, (4, 5)).astype(np.int32)
    values: dict[str, Encoding] = {
        "a": Affine(q, np.array([-8], np.int16), 0, np.dtype(np.float32)),
        "b": Affine(q, drawn.integers(-9, 9, 5).astype(np.int16), 1, np.dtype(np.float16)),
        "c": Codebook(q % 3, weights(3)),
        "c@u": Raw(weights(3, 4).astype(np.float16)),
    }
    (tmp_path / "v").write_bytes(tuned_values.packed(values))
    found = tuned_values.read(tmp_path / "v")
    assert found.keys() == values.keys()
    assert tuned_values.digest(found) == tuned_values.digest(values)
    for path, value in values.items():
        np.testing.assert_array_equal(found[path].values(), value.values())
        assert found[path].values().dtype == value.values().dtype
