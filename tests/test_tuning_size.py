"""Tuning to a size, on images changed at random, and with data that is given for the check."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import cnn, model, tuning_case, weights
from commanding import refused, run
from onnx import helper
from PIL import Image

import onnxopt
from onnxopt import Contract, OnnxoptError, native
from onnxopt.data import Batch, Data, Pending, open_data
from onnxopt.encoding import Affine
from onnxopt.graph import Gradient
from onnxopt.metrics.observed import Observed
from onnxopt.metrics.output_error import output_error
from onnxopt.request import Request
from onnxopt.search.original import Original, Parts
from onnxopt.spec.augment import Augment, parse
from onnxopt.tuning.augmented import augmented, is_images
from onnxopt.tuning.cut import cut_to
from onnxopt.tuning.kinds import Weight
from onnxopt.tuning.price import Price
from onnxopt.tuning.rate import Rate
from onnxopt.tuning.stage import held_out
from onnxopt.tuning.student import Lessons, update_size
from onnxopt.tuning.weights import Weights

Array = np.ndarray[Any, Any]


@pytest.fixture
def small(tmp_path: Path) -> tuple[Path, Path]:
    """A small network, and samples for it."""
    return tuning_case(tmp_path, 64, 1024)


def test_a_bounded_size_is_used_and_the_file_is_nearer_to_the_original(
    small: tuple[Path, Path], tmp_path: Path
) -> None:
    contract = Contract(target_ratio=12)
    plain = onnxopt.optimize(small[0], tmp_path / "plain.onnx", contract, small[1])
    tuned = onnxopt.optimize(small[0], tmp_path / "tuned.onnx", contract, small[1], tune="15epochs")
    most = small[0].stat().st_size / 12
    assert 0.97 * most < (tmp_path / "tuned.onnx").stat().st_size <= most
    assert "> tuned" in tuned.plan.to_json()
    x = weights(256, 64, seed=6)
    source = onnxruntime.InferenceSession(small[0])
    feeds = {source.get_inputs()[0].name: x}
    wanted = source.run(None, feeds)
    noise = [output_error(wanted, onnxopt.load(tmp_path / name).run(None, feeds))
             for name in ("plain.onnx", "tuned.onnx")]  # fmt: skip
    assert plain.bytes_after <= most
    assert (noise[1] or 1) < 0.9 * (noise[0] or 0)


def test_few_samples_show_a_large_gain_only(tmp_path: Path) -> None:
    small, data = tuning_case(tmp_path, 64, 64)  # of which 6 are held back
    done = onnxopt.optimize(small, tmp_path / "out.onnx", Contract(target_ratio=12), data, tune="5epochs")
    assert done.tuning
    assert "tuned" not in done.plan.to_json()


def test_a_deep_model_is_small_enough_before_it_is_cut(tmp_path: Path) -> None:
    nodes, tensors, x = [], {}, "x"
    for i in range(12):
        nodes += [helper.make_node("MatMul", [x, f"w{i}"], [f"h{i}"]), helper.make_node("Relu", [f"h{i}"], [f"r{i}"]),
                  helper.make_node("Add", [x, f"r{i}"], [f"x{i}"])]  # fmt: skip
        tensors[f"w{i}"], x = weights(32, 32, seed=i, scale=32**-0.5), f"x{i}"
    onnx.save(model(nodes, tensors, {"x": ["n", 32]}, {x: ["n", 32]}), tmp_path / "deep.onnx")
    np.save(tmp_path / "x.npy", weights(1024, 32, seed=5))
    done = onnxopt.optimize(tmp_path / "deep.onnx", tmp_path / "out", Contract(target_ratio=10), tmp_path / "x.npy",
                            tune="8epochs")  # fmt: skip
    assert done.tuning[-1].size <= done.bytes_before / 10


@pytest.mark.parametrize("ratio", [3, 6])
def test_a_generous_size_does_no_harm(small: tuple[Path, Path], tmp_path: Path, ratio: float) -> None:
    contract, x = Contract(target_ratio=ratio), weights(256, 64, seed=6)
    source = onnxruntime.InferenceSession(small[0])
    feeds, noise = {source.get_inputs()[0].name: x}, []
    for tune in (None, "8epochs"):
        onnxopt.optimize(small[0], tmp_path / "out.onnx", contract, small[1], tune=tune)
        found = onnxopt.load(tmp_path / "out.onnx").run(None, feeds)
        noise.append(output_error(source.run(None, feeds), found) or 0.0)
    assert noise[1] <= noise[0]


def test_the_price_follows_the_size() -> None:
    bits = 16000
    fixed, free = Price(1e-6), Price(1e-6, 1000, lambda: bits // 8 + 100)
    usual = fixed.value
    for done in (0.0, 0.3, 0.8):
        fixed.look(bits, done)
        free.look(bits, done)
    assert fixed.value == usual
    assert (high := free.value) > 2 * usual
    bits = 7000
    free.look(bits, 0.85)
    assert free.value < high


def test_the_rate_knows_busy_rows_and_columns() -> None:
    drawn = np.random.default_rng(0)
    scale = np.exp(drawn.normal(-1.5, 1.2, (256, 1)) + drawn.normal(0, 0.8, (1, 512)))
    masters = (drawn.laplace(0, 1, (256, 512)) * scale).astype(np.float32)
    coded = len(native.encode(np.rint(masters).astype(np.int32))[1])
    found = []
    for shape in ((256, 512), (1, 256 * 512)):
        rate = Rate([shape])
        rate.learn(masters.ravel())
        found.append(rate.bits(masters.ravel()) / 8)
    assert found[0] == pytest.approx(coded, rel=0.06)
    assert found[1] > 1.15 * coded


def test_a_cut_takes_what_harms_least_and_no_more_than_it_needs() -> None:
    drawn = np.random.default_rng(0)
    grid = Affine(np.rint(drawn.laplace(0, 1, (64, 128))).astype(np.int32), np.array([-8], np.int16), 0,
                  np.dtype(np.float32))  # fmt: skip
    found = Weights([Weight.of("w", grid)], {"w": grid.values()}, near=True)
    found.squares[:-1] = np.repeat([1.0, 1e-6], 64 * 64)  # the upper half matters

    def measured() -> int:
        return len(native.encode(cast(Affine, found.stored()["w"]).q)[1])

    before = measured()
    cut_to(97 * before // 100, found, measured)
    moved = cast(Affine, found.stored()["w"]).q != grid.q
    assert 0.93 * before < measured() <= 0.97 * before
    assert not moved[:32].any()
    assert np.abs(found.rounded - grid.q.ravel()).max() <= 1


def test_images_are_changed_alike_in_both_layouts() -> None:
    images, how = weights(32, 3, 16, 24), (Augment.FLIP, Augment.CROP, Augment.NOISE)
    first = augmented({"x": images}, how, (1, 2))["x"]
    last = augmented({"x": np.ascontiguousarray(images.transpose(0, 2, 3, 1))}, how[:2], (1, 2))["x"]
    again = augmented({"x": images}, how[:2], (1, 2))["x"]
    np.testing.assert_array_equal(last.transpose(0, 3, 1, 2), again)
    assert first.shape == images.shape
    assert first.dtype == images.dtype
    assert 0.05 < float((first - again).std()) < 0.15
    assert not np.array_equal(again, augmented({"x": images}, how[:2], (1, 3))["x"])


def test_half_of_the_images_are_flipped() -> None:
    images = weights(64, 1, 8, 8)
    found = augmented({"x": images}, (Augment.FLIP,), (0,))["x"]
    turned = [np.array_equal(one, image[..., ::-1]) for one, image in zip(found, images, strict=True)]
    same = [np.array_equal(one, image) for one, image in zip(found, images, strict=True)]
    assert sum(turned) + sum(same) == 64
    assert 20 < sum(turned) < 44


def test_half_of_the_images_get_a_fifth_of_another() -> None:
    images = weights(64, 1, 8, 8)
    found = augmented({"x": images}, (Augment.BLEND,), (0,))["x"]
    same = np.array([np.array_equal(one, image) for one, image in zip(found, images, strict=True)])
    assert 20 < same.sum() < 44
    np.testing.assert_allclose(found[~same], (0.8 * images + 0.2 * np.roll(images, 1, 0))[~same], rtol=1e-5, atol=1e-6)


def test_images_move_by_an_eighth_at_most() -> None:
    image = np.zeros((1, 1, 16, 16), np.float32)
    image[..., 8, 8] = 1
    seen = {tuple(np.argwhere(augmented({"x": image}, (Augment.CROP,), (seed,))["x"][0, 0])[0]) for seed in range(200)}
    assert seen == {(8 + i, 8 + j) for i in range(-2, 3) for j in range(-2, 3)}


def test_what_is_no_image_stays() -> None:
    tokens, rows = np.zeros((2, 3), np.int64), weights(2, 64, 5, 5)
    found = augmented({"tokens": tokens, "rows": rows}, tuple(Augment), (0,))
    assert found["tokens"] is tokens
    assert found["rows"] is rows
    assert is_images(weights(2, 8, 8, 3))


def test_the_teacher_sees_the_images_as_they_are_changed() -> None:
    model, x = cnn(), weights(32, 3, 16, 16)
    data = Data("x", lambda: iter([Pending(32, lambda: Batch({"x": x}))]), lambda: "")
    lessons = Lessons(data, model, ["y"], augment=(Augment.FLIP, Augment.CROP))
    teacher = onnxruntime.InferenceSession(model.SerializeToString())
    first, again, other = lessons.lesson(0, 0), lessons.lesson(0, 0), lessons.lesson(0, 1)
    np.testing.assert_array_equal(first.feeds["x"], again.feeds["x"])
    assert not np.array_equal(first.feeds["x"], other.feeds["x"])
    for one in (first, other):
        wanted = teacher.run(None, dict(one.feeds))[0]
        np.testing.assert_allclose(one.wanted["y"], wanted, rtol=1e-4, atol=1e-5)


def test_samples_can_be_lessons_as_blends() -> None:
    network, x, labels = cnn(), weights(8, 3, 16, 16), np.arange(8)
    data = Data("x", lambda: iter([Pending(8, lambda: Batch({"x": x}, labels))]), lambda: "")
    both = [Lessons(data, network, ["y"], kinds=(False, True)).lesson(index) for index in range(2)]
    lessons = Lessons(data, network, ["y"], kinds=(True,))
    assert len(lessons) == 1
    np.testing.assert_array_equal(both[0].feeds["x"], x)
    for one in (both[1], lessons.lesson(0)):
        np.testing.assert_allclose(one.feeds["x"], 0.8 * x + 0.2 * np.roll(x, 1, 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(one.labels, labels)


@pytest.mark.parametrize(("samples", "size"), [(64, 8), (384, 16), (960, 32), (1535, 32), (1536, 64), (60_000, 64)])
def test_few_samples_make_small_updates(samples: int, size: int) -> None:
    assert update_size(samples) == size


def test_no_gradient_is_of_more_samples_than_an_update(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small, data), sizes = tuning_case(tmp_path, 64, 128), set[int]()
    pulled_back = Gradient.pulled_back

    def noted(self: Gradient, feeds: Any, cotangents: Any) -> dict[str, Array]:
        sizes.add(feeds["x"].shape()[0])
        return pulled_back(self, feeds, cotangents)

    monkeypatch.setattr(Gradient, "pulled_back", noted)
    onnxopt.optimize(small, tmp_path / "out.onnx", Contract(target_ratio=12), data, tune="1epochs")
    assert max(sizes) == update_size(120) == 8


def test_a_drop_is_counted_on_the_data_for_the_check(small: tuple[Path, Path]) -> None:
    session = onnxruntime.InferenceSession(small[0])
    whole = open_data(small[1], session)
    check = whole.take(128)

    def parts(given: Data, contract: Contract) -> Parts:
        original = Original(session, Parts(whole, whole.take(256), given), None, Observed(("y",)), lambda: session)
        request = Request.of(contract, small[1], {})
        found = held_out(cast(Any, SimpleNamespace(request=request, bytes_before=1)), original)
        assert found.counted
        return found.parts

    given = parts(check, Contract(max_drop=1))
    assert given.validation is given.check is check
    assert given.calibration.count() == 960
    size = parts(check, Contract(target_ratio=8))
    assert size.calibration.count() == 960


def test_without_such_data_a_quarter_is_held_back(small: tuple[Path, Path]) -> None:
    session = onnxruntime.InferenceSession(small[0])
    whole = open_data(small[1], session)
    validation = whole.take(256)
    original = Original(session, Parts(whole, validation, validation), None, Observed(("y",)), lambda: session)
    request = Request.of(Contract(max_drop=1), small[1], {})
    found = held_out(cast(Any, SimpleNamespace(request=request, bytes_before=1)), original)
    assert found.parts.check is found.parts.validation
    assert (found.parts.calibration.count(), found.parts.validation.count()) == (768, 256)


def test_names_of_changes_are_read() -> None:
    assert parse(" Flip, crop,flip") == (Augment.FLIP, Augment.CROP)
    assert parse("None") == ()
    with pytest.raises(OnnxoptError, match="--augment is 'spin', expected some of flip, crop, noise, blend"):
        parse("spin")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--augment", "flip"], ["--augment changes images that train", "--tune"]),
        (["--tune", "1epochs", "--augment", "spin"], ["--augment is 'spin'", "flip, crop, noise, blend"]),
    ],
)
def test_impossible_changes_are_refused(
    small: tuple[Path, Path], tmp_path: Path, options: list[str], words: list[str]
) -> None:
    refused(run("optimize", *small[:1], "-o", tmp_path / "out.onnx", "--data", small[1], *options), *words)
    assert not (tmp_path / "out.onnx").exists()


def test_a_model_without_images_is_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OnnxoptError, match="--augment changes images, and no input has any"):
        onnxopt.optimize(small[0], tmp_path / "o", Contract(target_ratio=8), small[1], tune="1epochs", augment="flip")
    assert not (tmp_path / "o").exists()


def test_square_colour_images_are_changed_unless_the_user_says_no(tmp_path: Path) -> None:
    onnx.save(cnn(), tmp_path / "cnn.onnx")
    (tmp_path / "images").mkdir()
    for index in range(48):
        pixels = np.random.default_rng(index).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{index:02}.png")
    data = open_data(tmp_path / "images", onnxruntime.InferenceSession(tmp_path / "cnn.onnx"), "tensorflow")
    said = dict[Any, list[str]]()
    for augment in (None, "flip,crop,blend", "none", ()):
        told = said.setdefault(augment, [])
        onnxopt.optimize(tmp_path / "cnn.onnx", tmp_path / "o", Contract(error=0.3), data, tune="2epochs",
                         augment=augment, progress=lambda what, share, told=told: told.append(what))  # fmt: skip
    assert any("changed at random, as by --augment flip,crop,blend" in line for line in said[None])
    assert not any("changed at random" in line for augment in ("none", ()) for line in said[augment])
    passes = {augment: [line for line in lines if "pass " in line] for augment, lines in said.items()}
    assert passes[None] == passes["flip,crop,blend"] != passes["none"] == passes[()]
