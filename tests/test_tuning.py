"""Fine-tuning without labels: gradients, the price of bits, the stage from the command line to the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from builders import lstm, mlp, tuning_case, weights
from commanding import refused, run
from differences import build, node
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import onnxopt
from onnxopt import Contract, OnnxoptError, native
from onnxopt.data import Batch, Data, Pending
from onnxopt.encoding import Affine, Raw
from onnxopt.search.slope import Trial
from onnxopt.spec.promise import Promise
from onnxopt.spec.tuning import Tuning
from onnxopt.tuning import stage
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.loss import Loss
from onnxopt.tuning.optimizer import Adam, scheduled
from onnxopt.tuning.price import Price
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.student import Lessons, Student
from onnxopt.tuning.training import Course, _Run, train
from onnxopt.tuning.weights import Weights

Array = np.ndarray[Any, Any]


def trained_kinds() -> onnx.ModelProto:
    """x[n, 3, 6, 6] -> Conv -> BatchNormalization -> depthwise Conv -> Gemm -> MatMul -> y[n, 5]; all weights train."""
    nodes = [
        node("Conv", ["x", "conv", "conv bias"], ["a"]),
        node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"]),
        node("Sigmoid", ["b"], ["c"]),
        node("Conv", ["c", "depthwise", "depthwise bias"], ["d"], group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Flatten", ["d"], ["e"]),
        node("Gemm", ["e", "gemm", "gemm bias"], ["f"], transB=1),
        node("Tanh", ["f"], ["g"]),
        node("MatMul", ["g", "matmul"], ["h"]),
        node("Add", ["h", "sum"], ["y"]),
    ]
    tensors = {
        "conv": weights(4, 3, 3, 3), "conv bias": weights(4, seed=1), "scale": 1 + weights(4, seed=2) ** 2,
        "shift": weights(4, seed=3), "depthwise": weights(4, 1, 3, 3, seed=4), "depthwise bias": weights(4, seed=5),
        "gemm": weights(6, 16, seed=6), "gemm bias": weights(6, seed=7), "matmul": weights(6, 5, seed=8),
        "sum": weights(5, seed=9), "mean": weights(4, seed=10), "variance": 1 + weights(4, seed=11) ** 2,
    }  # fmt: skip
    return build(nodes, ["n", 3, 6, 6], tensors)


def tensors_of(model: onnx.ModelProto) -> dict[str, Array]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def batches(*feeds: dict[str, Array]) -> Data:
    return Data("test", lambda: (Pending(len(one["x"]), lambda one=one: Batch(one)) for one in feeds), lambda: "0")


def lessons_of(model: onnx.ModelProto, student: Student, loss: Loss, *feeds: dict[str, Array]) -> Lessons:
    matrices = {name: array for name, array in tensors_of(model).items() if array.ndim == 2}
    starts, _ = student.survey(feeds[0], matrices)
    lessons = Lessons(batches(*feeds), model, [start.name for start in starts])
    loss.learn(starts, lessons.lesson(0).samples, [lessons.lesson(0).wanted])
    return lessons


def noise(z: Array, t: Array) -> float:
    return float(np.square(z - t).sum() / np.square(t).sum())


def of_answers(z: Array, t: Array) -> float:
    """Half is noise without the mean, half is 2 k T^2 KL over the power, at T = 4."""
    log_q, log_p = (one / 4 - np.log(np.exp(one / 4).sum(1, keepdims=True)) for one in (z, t))
    centred = t - t.mean(1, keepdims=True)
    divergence = 2 * t.shape[1] * 16 * (np.exp(log_p) * (log_p - log_q)).sum()
    apart = z - t - (z - t).mean(1, keepdims=True)
    return float((divergence + np.square(apart).sum()) / 2 / np.square(centred).sum())


@pytest.mark.parametrize(("answers", "distance"), [(False, noise), (True, of_answers)])
def test_gradients_are_those_of_the_distance_in_float64(answers: bool, distance: Callable[..., float]) -> None:
    model = trained_kinds()
    every, x = tensors_of(model), weights(4, 3, 6, 6, seed=20)
    trained = [name for name in every if name not in ("mean", "variance")]
    double = onnx.ModelProto()
    double.CopyFrom(model)
    double.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    for tensor in double.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name))

    def scores(changed: dict[str, Array]) -> Array:
        for tensor in double.graph.initializer:
            if tensor.name in changed:
                now = changed[tensor.name].astype(np.float64)
                tensor.CopyFrom(numpy_helper.from_array(now, tensor.name))
        return np.asarray(ReferenceEvaluator(double).run(None, {"x": x.astype(np.float64)})[0])

    teacher = scores(every)
    every = {name: every[name] for name in trained}
    moved = {name: every[name] + weights(*every[name].shape, seed=30 + i, scale=0.1) for i, name in enumerate(trained)}
    opened, loss = onnx.ModelProto(), Loss(answers)
    opened.CopyFrom(model)
    student = Student(opened, trained, trained, loss)
    starts, unsupported = student.survey({"x": x}, every)
    assert not unsupported
    lessons = Lessons(batches({"x": x}), model, [start.name for start in starts])
    loss.learn(starts, 4, [lessons.lesson(0).wanted])
    found, gradient = student.gradient(lessons.lesson(0), moved)
    assert found == pytest.approx(distance(scores(moved), teacher), rel=1e-4)
    assert gradient.keys() == set(trained)
    for name in trained:
        for index in (0, moved[name].size - 1):
            ends = []
            for step in (-1e-5, 1e-5):
                other = moved[name].astype(np.float64)
                other.flat[index] += step
                ends.append(distance(scores({**moved, name: other}), teacher))
            slope = (ends[1] - ends[0]) / 2e-5
            assert gradient[name].flat[index] == pytest.approx(slope, rel=2e-3, abs=2e-6), name


def test_the_rate_foretells_the_bytes_of_the_coder() -> None:
    drawn = np.random.default_rng(0)
    masters = np.concatenate([drawn.laplace(0, scale, 2**15) for scale in (0.4, 2)]).astype(np.float32)
    rate = Rate([(128, 256), (128, 256)])
    rate.learn(masters)
    coded = sum(len(native.encode(np.rint(part).reshape(128, 256))[1]) for part in np.split(masters, 2))
    assert rate.bits(masters) / 8 == pytest.approx(coded, rel=0.01)


def test_the_gradient_of_the_rate_is_what_a_step_adds() -> None:
    drawn = np.random.default_rng(1)
    whole = np.rint(drawn.laplace(0, 2, 500)).astype(np.float32)
    rate = Rate([(1, 500)])
    rate.learn(whole)
    between = whole[:100] + np.float32(0.25)
    added = [rate.bits(np.concatenate([whole[:i], [w + 1], whole[i + 1 :]])) - rate.bits(whole)
             for i, w in enumerate(whole[:100])]  # fmt: skip
    np.testing.assert_allclose(rate.gradient(np.concatenate([between, whole[100:]]))[:100], added, atol=1e-3)


def test_the_rate_rises_and_falls() -> None:
    rates = [scheduled(0.5, done) for done in np.linspace(0, 1, 41).tolist()]
    highest = int(np.argmax(rates))
    assert rates[0] == 0
    assert rates[-1] == pytest.approx(0)
    assert 0 < highest <= 4
    assert rates[highest] == pytest.approx(0.5, rel=0.03)
    assert np.all(np.diff(rates[: highest + 1]) > 0)
    assert np.all(np.diff(rates[highest:]) < 0)


def test_adam_moves_by_its_rate_and_finds_a_minimum() -> None:
    values, adam = np.array([3, -2, 0.5], np.float32), Adam(3)
    adam.update(values, 2 * values, 0.1)
    np.testing.assert_allclose(values, [2.9, -1.9, 0.4], rtol=1e-5)
    for i in range(400):
        adam.update(values, 2 * values, 0.1 * (1 - i / 400))
    assert np.abs(values).max() < 0.01


def test_tuning_on_a_fine_grid_leaves_a_model_what_it_is() -> None:
    model, x = mlp(16), weights(64, 16)
    every = {name: array for name, array in tensors_of(model).items() if array.ndim == 2}
    grids = {name: Affine(np.rint(array * 2**12).astype(np.int32), np.array([-48], np.int16), 0, array.dtype)
             for name, array in every.items()}  # fmt: skip
    opened, loss = onnx.ModelProto(), Loss(answers=False)
    opened.CopyFrom(model)
    student = Student(opened, list(every), list(every), loss)
    lessons = lessons_of(model, student, loss, {"x": x})
    trained = Weights([Weight.of(name, grid) for name, grid in grids.items()], every, near=True)
    before, _ = student.gradient(lessons.lesson(0), trained.seen())
    list(train(student, lessons, trained, {}, Price(1e-16), Course(lambda updates: updates / 50)))
    after, _ = student.gradient(lessons.lesson(0), trained.seen())
    assert after <= before < 1e-6


def test_training_makes_noise_and_bits_cheaper_at_their_price() -> None:
    model, x = mlp(16), weights(512, 16)
    every = {name: array for name, array in tensors_of(model).items() if array.ndim == 2}
    grids = {name: Affine(np.rint(array / 0.25).astype(np.int32), np.array([-8], np.int16), 0, array.dtype)
             for name, array in every.items()}  # fmt: skip
    opened, loss, slope = onnx.ModelProto(), Loss(answers=False), 1e-5
    opened.CopyFrom(model)
    student = Student(opened, list(every), list(every), loss)
    lessons = lessons_of(model, student, loss, *({"x": part} for part in np.split(x, 8)))
    trained = Weights([Weight.of(name, grid) for name, grid in grids.items()], every, near=True)

    def cost() -> float:
        rate = Rate(trained.matrices)
        rate.learn(trained.rounded)
        noise = np.mean([student.gradient(lessons.lesson(i), trained.seen())[0] for i in range(len(lessons))])
        return float(noise + 2 * np.log(2) * slope * rate.bits(trained.rounded))

    before = cost()
    passes = list(train(student, lessons, trained, {}, Price(slope), Course(lambda updates: updates / 400)))
    assert len(passes) == 400 // len(lessons)
    assert cost() < 0.95 * before


def test_floats_that_are_far_from_the_original_move_faster() -> None:
    start, moved = {"w": weights(8, 8)}, []
    for loss in (1e-6, 1.0):
        floats = Weights([Weight.of("w", Raw(start["w"]))], start, near=False)
        _Run(floats, Price(0.0)).update(loss, {"w": weights(8, 8, seed=1)}, Rate([]), 0.1)
        moved.append(float(np.abs(floats.seen()["w"] - start["w"]).max()))
    assert moved[1] == pytest.approx(moved[0] * 0.1 / 0.045, rel=1e-3)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A small network, and samples for it."""
    return tuning_case(tmp_path, 16, 256)


def test_the_same_passes_give_the_same_bytes(small: tuple[Path, Path], tmp_path: Path) -> None:
    for name in ("a", "b"):
        onnxopt.optimize(small[0], tmp_path / name, Contract(error=0.2), small[1], tune="20epochs")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    plain = onnxopt.optimize(small[0], tmp_path / "plain", Contract(error=0.2), small[1])
    assert (tmp_path / "a").stat().st_size <= plain.bytes_after


def test_a_round_that_missed_leaves_nothing_behind(
    small: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ends(first: float) -> list[str]:
        monkeypatch.setattr(stage, "_NOISIER", first)
        said = list[str]()
        onnxopt.optimize(small[0], tmp_path / "out", Contract(error=0.02), small[1], tune="8epochs",
                         progress=lambda what, share: said.append(what))  # fmt: skip
        return [line.partition("slope ")[2] for line in said if line.endswith((": missed", ": kept"))]

    from_afar, from_near = ends(2.0), ends(2.0**0.5)
    assert from_afar[0].endswith(": missed")
    assert from_afar[1] == from_near[0]


@pytest.mark.parametrize(
    ("drop", "spread", "nearer", "wanted"),
    [(0.2, 0.1, False, True), (0.4, 0.2, False, False), (0.4, 0.2, True, True), (0.6, 0.2, True, False)],
)
def test_a_file_that_is_nearer_keeps_what_few_samples_cannot_show(
    drop: float, spread: float, nearer: bool, wanted: bool
) -> None:
    trial = Trial(1e-6, 1000, 0.1, drop, uncertainty=spread, likely=drop, spread=spread)
    assert stage.keeps(Promise(allowed=0.5, confidence=0.9), trial, nearer) == wanted


def test_an_interrupt_keeps_the_best_so_far(small: tuple[Path, Path], tmp_path: Path) -> None:
    said = []

    def interrupting(what: str, share: float) -> None:
        said.append(what)
        if "round 2" in what:
            raise KeyboardInterrupt

    done = onnxopt.optimize(small[0], tmp_path / "out", Contract(error=0.2), small[1], tune="50epochs",
                            progress=interrupting)  # fmt: skip
    assert done.met
    assert "stopped: the best weights so far are kept" in said


def test_a_model_without_gradients_is_refused(tmp_path: Path) -> None:
    onnx.save(lstm(), tmp_path / "lstm.onnx")
    shape = [d.dim_value or 1 for d in lstm().graph.input[0].type.tensor_type.shape.dim]
    np.savez(tmp_path / "x.npz", x=weights(40, *shape[1:]))
    done = run("optimize", tmp_path / "lstm.onnx", "-o", tmp_path / "out.onnx", "--data", tmp_path / "x.npz",
               "--error", 0.1, "--tune", "2epochs", "-v")  # fmt: skip
    assert done.returncode == 1
    assert "no weight can be tuned: the gradient cannot pass LSTM" in done.stderr
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tune", "soon"], ["--tune is 'soon'", "--tune 10m"]),
        (["--tune", "0m"], ["--tune is '0m'", "--tune 30epochs"]),
        (["--tune", "1.5epochs"], ["--tune is '1.5epochs'"]),
        (["--tune", "10m"], ["--tune trains the weights on real inputs", "--data"]),
        (["--tune", "10m", "--data", "x.npy", "--lossless"], ["--tune and --lossless contradict each other"]),
        (
            ["--tune", "10m", "--data", "x.npy", "--recipe", "microbrain"],
            ["recipe microbrain does not say after which steps to train"],
        ),
    ],
)
def test_impossible_requests_are_refused(
    small: tuple[Path, Path], tmp_path: Path, options: list[str], words: list[str]
) -> None:
    done = run("optimize", small[0], "-o", tmp_path / "out.onnx", *options, cwd=tmp_path)
    refused(done, *words)
    assert not (tmp_path / "out.onnx").exists()


def test_a_plan_is_refused(small: tuple[Path, Path]) -> None:
    with pytest.raises(OnnxoptError, match="a plan does not hold the values of tuned weights"):
        onnxopt.plan(small[0], Contract(error=0.2), small[1], tune="1epochs")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90s", Tuning(seconds=90)), ("1.5h", Tuning(seconds=5400)), (" 10M", Tuning(seconds=600)),
     ("30epochs", Tuning(epochs=30)), ("1 epoch", Tuning(epochs=1)), ("Auto", Tuning())],
)  # fmt: skip
def test_limits_are_read(text: str, wanted: Tuning) -> None:
    assert Tuning.parse(text) == wanted
    assert Tuning.parse(str(wanted)) == wanted
