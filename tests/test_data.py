"""Streams of data: arrays, images, functions, made-up images."""

from __future__ import annotations

import itertools
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from builders import lstm, model
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper
from PIL import Image

from onnxopt.data import PRESETS, Array, Batch, Data, input_scale, open_data, quiet_session, split, synthetic
from onnxopt.errors import OnnxoptError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools"))

import realdata

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)

Session = onnxruntime.InferenceSession


def taking(elem: int = TensorProto.FLOAT, **inputs: list[int | str | None]) -> Session:
    """A model with these inputs that gives them back."""
    names = list(inputs)
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in names],
        "test",
        [helper.make_tensor_value_info(name, elem, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(f"{name}_out", elem, None) for name in names],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return quiet_session(made.SerializeToString())


VECTORS = taking(x=["n", 4])
IMAGES = taking(x=["n", 3, 8, 8])


def everything(data: Data) -> list[tuple[dict[str, list[Any]], Any]]:
    return [
        (
            {name: array.tolist() for name, array in batch.feeds.items()},
            None if batch.labels is None else batch.labels.tolist(),
        )
        for batch in data
    ]


def seen(data: Data) -> list[int]:
    return [label for batch in data for label in np.ravel(batch.labels).tolist()]


@pytest.fixture
def arrays(tmp_path: Path) -> Callable[..., Path]:
    def save(name: str = "d.npz", **arrays: Any) -> Path:
        np.savez(tmp_path / name, **arrays)
        return tmp_path / name

    return save


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., Path]:
    """Saves images of a colour each (or given whole), by path."""

    def save(**files: Any) -> Path:
        for path, colour in files.items():
            file = tmp_path / "pictures" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            (colour if isinstance(colour, Image.Image) else Image.new("RGB", (8, 8), colour)).save(file)
        return tmp_path / "pictures"

    return save


# ---- streams -------------------------------------------------------------------------------------------------------


def numbered(sizes: list[int]) -> Data:
    """A stream of batches of these sizes; labels count the samples."""
    starts = list(itertools.accumulate(sizes, initial=0))
    batches = [
        ({"x": np.zeros((n, 4), np.float32)}, np.arange(start, start + n))
        for n, start in zip(sizes, starts, strict=False)
    ]
    return open_data(batches, VECTORS)


@given(st.lists(st.integers(1, 9), min_size=2, max_size=60), st.fractions(Fraction(1, 50), Fraction(1, 2)))
def test_split_is_a_partition_with_about_the_share_held_back(sizes: list[int], share: Fraction) -> None:
    data = numbered(sizes)
    calibration, validation = split(data, float(share))
    assert sorted(seen(calibration) + seen(validation)) == list(range(sum(sizes)))
    assert seen(calibration)
    assert seen(validation)
    held = len(list(validation))
    assert abs(held - float(share) * len(sizes)) <= 1
    assert everything(split(data, float(share))[1]) == everything(validation)
    assert len({data.digest(), calibration.digest(), validation.digest()}) == 3


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 300))
def test_take_gives_the_fewest_batches_that_suffice(sizes: list[int], samples: int) -> None:
    taken = numbered(sizes).take(samples)
    assert seen(taken) == list(range(taken.count()))
    assert taken.count() >= min(samples, sum(sizes))
    assert taken.count() - len(list(taken)[-1].feeds["x"]) < samples


def test_parts_of_parts() -> None:
    calibration, _ = split(numbered([2] * 10), 0.5)
    assert seen(calibration.take(5)) == [0, 1, 4, 5, 8, 9]
    first, second = split(numbered([2] * 10).take(8), 0.5)
    assert (seen(first), seen(second)) == ([0, 1, 4, 5], [2, 3, 6, 7])


def test_what_is_passed_over_is_not_read() -> None:
    read = []

    def batches() -> Iterator[Array]:
        for i in itertools.count():
            read.append(i)
            yield np.zeros((2, 4), np.float32)

    assert open_data(batches, VECTORS).take(6).count() == 6
    assert read == [0, 1, 2]


def test_one_batch_cannot_be_split() -> None:
    with pytest.raises(OnnxoptError, match="is a single batch"):
        split(numbered([100]), 0.2)
    with pytest.raises(ValueError, match=r"held_back is 0\.9"):
        split(numbered([1, 1]), 0.9)


def test_a_batch_knows_its_size() -> None:
    one = np.float32(1)
    assert Batch({"sr": np.array(16000), "x": np.zeros((3, 2))}, None).size == 3
    assert Batch({"sr": np.asarray(one)}, None).size == 1
    assert Batch({"x": np.zeros((1, 2))}, np.zeros(5)).size == 5


# ---- arrays --------------------------------------------------------------------------------------------------------


@given(st.integers(1, 400))
def test_arrays_are_shuffled_together_in_batches_none_left_out(tmp_path_factory: Any, count: int) -> None:
    file = tmp_path_factory.getbasetemp() / "shuffled.npz"
    x = np.arange(4.0 * count).reshape(count, 4)
    np.savez(file, x=x, labels=np.arange(count))
    data = open_data(file, VECTORS)
    labels = seen(data)
    assert sorted(labels) == list(range(count))
    assert count < 10 or labels != list(range(count))
    for batch in data:
        assert batch.feeds["x"].dtype == np.float32
        assert batch.labels is not None
        assert batch.feeds["x"][:, 0].tolist() == (4 * batch.labels).tolist()
    again = open_data(file, VECTORS)
    assert everything(again) == everything(data)
    assert again.digest() == data.digest()
    sizes = [batch.size for batch in data]
    assert len(set(sizes[:-1])) <= 1
    assert max(sizes) <= 64


def test_arrays_sorted_by_class_are_mixed_in_every_part(arrays: Callable[..., Path]) -> None:
    data = open_data(arrays(x=np.zeros((500, 4)), y=np.repeat(np.arange(5), 100)), VECTORS)
    for part in split(data, 0.1):
        assert set(seen(part)) == set(range(5))


def test_names_of_arrays(arrays: Callable[..., Path]) -> None:
    x, y = np.ones((20, 4)), np.arange(20)
    for stored in ({"x": x}, {"other": x}, {"x": x, "label": y}, {"pixels": x, "y": y}, {"x": x, "labels": y}):
        data = open_data(arrays(**stored), VECTORS)
        assert data.count() == 20
        assert all((batch.labels is None) == (len(stored) == 1) for batch in data)
    two = open_data(arrays(a=x, y=-x, labels=y), taking(a=["n", 4], y=["n", 4]))
    for batch in two:
        assert (batch.feeds["y"] == -1).all(), "an input called y is an input"
        assert batch.labels is not None


def test_a_single_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.arange(40, dtype=np.float32).reshape(10, 4))
    data = open_data(str(tmp_path / "x.npy"), VECTORS)
    assert sorted(value for batch in data for value in batch.feeds["x"].ravel()) == list(range(40))
    with pytest.raises(OnnxoptError, match=r"2 inputs \(a, b\); store their arrays in one .npz"):
        open_data(tmp_path / "x.npy", taking(a=["n", 4], b=["n", 4]))


def test_a_fixed_batch_drops_the_incomplete_rest(arrays: Callable[..., Path]) -> None:
    data = open_data(arrays(x=np.zeros((23, 4)), y=np.arange(23)), taking(x=[5, 4]))
    assert [batch.size for batch in data] == [5, 5, 5, 5]
    assert data.count() == 20
    with pytest.raises(OnnxoptError, match="holds 23 samples, the model's inputs take 32 at once"):
        open_data(arrays(x=np.zeros((23, 4))), taking(x=[32, 4]))


def test_an_array_without_dimensions_goes_with_every_batch(arrays: Callable[..., Path]) -> None:
    rate = taking(x=["n", 4], rate=[])
    data = open_data(arrays(x=np.zeros((30, 4)), rate=np.float32(16000)), rate)
    assert data.count() == 30
    assert {float(batch.feeds["rate"]) for batch in data} == {16000.0}


def test_whole_numbers_are_cast_where_they_fit(arrays: Callable[..., Path]) -> None:
    session = taking(TensorProto.INT32, x=["n", 2])
    for dtype in (np.int64, np.uint8, np.int16):
        data = open_data(arrays(x=np.full((4, 2), 100, dtype)), session)
        assert {str(batch.feeds["x"].dtype) for batch in data} == {"int32"}
    data = open_data(arrays(x=np.full((4, 2), 2**40)), session)
    with pytest.raises(OnnxoptError, match="'x' is given numbers that do not fit into int32"):
        list(data)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"x": np.zeros((9, 5))}, r"'x' is given float64 \[9, 5\], the model takes float32 \[n, 4\]"),
        ({"x": np.zeros((9, 4, 1))}, r"\[9, 4, 1\]"),
        ({"x": np.zeros((9, 4), np.uint8)}, r"uint8 \[9, 4\], the model takes float32"),
        ({"x": np.zeros((9, 4)), "y": np.zeros(8)}, "equally many samples in every array, found x 9, labels 8"),
        ({"x": np.zeros((0, 4))}, "found x 0"),
        ({"x": np.zeros((9, 4)), "lables": np.zeros(9)}, r"holds x, lables; expected an array for each .* \(x\)"),
        ({"y": np.zeros(9)}, "holds y; expected"),
        ({"x": np.array([None, 1])}, "Object arrays"),
    ],
)
def test_wrong_arrays_are_one_sentence(arrays: Callable[..., Path], stored: dict[str, Array], message: str) -> None:
    with pytest.raises(OnnxoptError, match=rf"^.*d\.npz: .*{message}") as caught:
        open_data(arrays(**stored), VECTORS)
    assert "\n" not in str(caught.value)


def test_a_damaged_file(arrays: Callable[..., Path]) -> None:
    file = arrays(x=np.zeros((100, 4)))
    for content in (file.read_bytes()[:-40], b"", b"no archive"):
        file.write_bytes(content)
        with pytest.raises(OnnxoptError, match="not a file of numpy arrays that can be read"):
            open_data(file, VECTORS)


# ---- images --------------------------------------------------------------------------------------------------------


def test_class_folders_are_labels(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"cat/a.PNG": "red", "dog/deep/b.jpeg": "blue", "ape/c.bmp": "lime", "ape/.d.png": "red"})
    (folder / "cat" / "notes.txt").write_text("no image")
    data = open_data(folder, IMAGES, preprocess="unit")
    colours = {}
    for batch in data:
        assert batch.labels is not None
        for image, label in zip(batch.feeds["x"], batch.labels.tolist(), strict=True):
            colours[label] = int(image[:, 4, 4].argmax())
    assert colours == {0: 1, 1: 0, 2: 2}, "ape is green, cat is red, dog is blue"


def test_folders_of_numbers_are_those_labels(pictures: Callable[..., Path]) -> None:
    data = open_data(pictures(**{"007/a.png": "red", "10/b.png": "red"}), IMAGES, preprocess="unit")
    assert sorted(seen(data)) == [7, 10]


@pytest.mark.parametrize("paths", [["a.png", "b.png"], ["a.png", "cat/b.png"], ["images/a.png", "images/b.png"]])
def test_no_labels_without_classes(pictures: Callable[..., Path], paths: list[str]) -> None:
    data = open_data(pictures(**dict.fromkeys(paths, "red")), IMAGES, preprocess="unit")
    assert data.count() == 2
    assert all(batch.labels is None for batch in data)


PIXEL = (10, 128, 250)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"preprocess": "raw"}, (10, 128, 250)),
        ({"preprocess": "unit"}, (10 / 255, 128 / 255, 250 / 255)),
        ({"preprocess": "tensorflow"}, (10 / 127.5 - 1, 128 / 127.5 - 1, 250 / 127.5 - 1)),
        ({"preprocess": "caffe"}, (250 - 104, 128 - 117, 10 - 123)),
        (
            {"preprocess": "imagenet"},
            ((10 / 255 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (250 / 255 - 0.406) / 0.225),
        ),
        (
            {"mean": [0.5], "std": [0.1, 0.2, 0.4]},
            ((10 / 255 - 0.5) / 0.1, (128 / 255 - 0.5) / 0.2, (250 / 255 - 0.5) / 0.4),
        ),
        ({"std": [1 / 255]}, (10, 128, 250)),
        ({"mean": [0.1]}, (10 / 255 - 0.1, 128 / 255 - 0.1, 250 / 255 - 0.1)),
    ],
)
def test_pixels_are_scaled(pictures: Callable[..., Path], options: dict[str, Any], expected: tuple[float, ...]) -> None:
    folder = pictures(**{"a.png": PIXEL})
    (batch,) = open_data(folder, IMAGES, **options)
    assert batch.feeds["x"].dtype == np.float32
    assert batch.feeds["x"][0, :, 3, 5] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    (batch,) = open_data(folder, taking(x=["n", 8, 8, 3]), **options)
    assert batch.feeds["x"][0, 3, 5] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_layout_channels_and_size(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"a.png": PIXEL})
    grey = round(0.299 * 10 + 0.587 * 128 + 0.114 * 250)
    for session, options, shape in [
        (taking(x=[None, 1, 8, 8]), {}, (1, 1, 8, 8)),
        (taking(x=[None, 9, 12, 1]), {}, (1, 9, 12, 1)),
        (taking(x=["n", "c", "h", "w"]), {"layout": "nchw", "size": 16}, (1, 3, 16, 16)),
        (taking(x=["n", 3, "h", "w"]), {"size": (16, 24)}, (1, 3, 16, 24)),
        (taking(x=["n", 3, 3, 3]), {"layout": "NHWC"}, (1, 3, 3, 3)),
    ]:
        (batch,) = open_data(folder, session, preprocess="raw", **options)
        assert batch.feeds["x"].shape == shape
        if 1 in shape[1:]:
            assert batch.feeds["x"].ravel() == pytest.approx(grey, abs=1)


def test_uint8_takes_pixels_as_they_are(pictures: Callable[..., Path]) -> None:
    folder, session = pictures(**{"a.png": PIXEL}), taking(TensorProto.UINT8, x=[1, 8, 8, 3])
    (batch,) = open_data(folder, session)
    assert batch.feeds["x"].dtype == np.uint8
    assert batch.feeds["x"][0, 0, 0].tolist() == list(PIXEL)
    with pytest.raises(OnnxoptError, match="is uint8 and takes pixels as they are"):
        open_data(folder, session, preprocess="imagenet")


def test_the_centre_is_cropped_after_scaling_the_shorter_side(pictures: Callable[..., Path]) -> None:
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[16:240, 144:368] = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(wide)}), taking(x=[1, 224, 224, 3]), preprocess="raw")
    assert (batch.feeds["x"][0] == wide[16:240, 144:368]).all(), "of 256 x 512, no scaling"
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2) * np.ones((1, 300, 1), np.uint8)
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(ramp)}), taking(x=[1, 112, 112, 3]), preprocess="raw")
    assert batch.feeds["x"][0, 0].mean() == pytest.approx(16.5, abs=0.5), "1/16 of the height is cut off"
    assert batch.feeds["x"][0, -1].mean() == pytest.approx(238.5, abs=0.5)
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(small)}), taking(x=[1, 8, 8, 3]), preprocess="raw")
    assert (batch.feeds["x"][0] == small).all(), "an image of the model's size is taken whole"


def test_a_function_prepares_images(pictures: Callable[..., Path], tmp_path: Path, monkeypatch: Any) -> None:
    folder = pictures(**{"a.png": PIXEL, "b.png": Image.new("L", (30, 20), 77)})
    (tmp_path / "own_images.py").write_text(
        "import numpy as np\n"
        "def good(image):\n    return np.asarray(image.resize((8, 8)), np.float32).transpose(2, 0, 1)\n"
        "def flat(image):\n    return np.zeros(7)\n"
        "def bad(image):\n    return image.nonsense\n"
    )
    monkeypatch.chdir(tmp_path)
    data = open_data(folder, IMAGES, preprocess="own_images:good")
    assert {tuple(image[:, 0, 0]) for batch in data for image in batch.feeds["x"]} == {PIXEL, (77, 77, 77)}
    with pytest.raises(OnnxoptError, match=r"own_images:flat: input 'x' is given float64 \[1, 7\], the model takes"):
        list(open_data(folder, IMAGES, preprocess="own_images:flat"))
    with pytest.raises(OnnxoptError, match=r"own_images:bad: AttributeError: .*own_images.py, line 7"):
        list(open_data(folder, IMAGES, preprocess="own_images:bad"))


def test_the_digest_is_of_contents_and_preparation(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"a.png": "red", "b.png": "blue"})
    digests = {name: open_data(folder, IMAGES, preprocess=name).digest() for name in PRESETS}
    assert len(set(digests.values())) == len(PRESETS)
    pictures(**{"a.png": "red"})
    assert open_data(folder, IMAGES, preprocess="unit").digest() == digests["unit"], "of the files, not of their dates"
    pictures(**{"b.png": "navy"})
    assert open_data(folder, IMAGES, preprocess="unit").digest() != digests["unit"]


def test_images_are_decoded_batch_by_batch(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{f"{i}.png": (i, 0, 0) for i in range(160)})
    session = taking(x=["n", 3, 256, 256])
    tracemalloc.start()
    count = sum(batch.size for batch in open_data(folder, session, preprocess="imagenet"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 160
    assert peak < 4 * 16 * 3 * 256 * 256 * 4, "four batches; all of them are ten"


@pytest.mark.parametrize(
    ("session", "options", "message"),
    [
        (IMAGES, {}, "say how pixels become the model's input: --preprocess with one of imagenet, caffe"),
        (IMAGES, {"preprocess": "imagnet"}, "say how pixels"),
        (IMAGES, {"preprocess": "unit", "mean": [0.5]}, "say how pixels"),
        (IMAGES, {"mean": [0.5, 0.5]}, "expected 1 or 3 numbers"),
        (IMAGES, {"std": [0.0]}, "deviations of more than 0"),
        (IMAGES, {"preprocess": "unit", "size": 9}, "cannot be of size 9 x 9"),
        (IMAGES, {"preprocess": "unit", "layout": "NHWC"}, "in NHWC that is 8 channels"),
        (taking(x=["n", 1, 8, 8]), {"preprocess": "imagenet"}, "expected 1 or 1 numbers"),
        (taking(x=["n", 3, "h", "w"]), {"preprocess": "unit"}, r"float32 \[n, 3, h, w\]; .* None x None, --size"),
        (taking(x=["n", "c", "h", "w"]), {"preprocess": "unit"}, "say whether its layout is NCHW or NHWC"),
        (VECTORS, {"preprocess": "unit"}, "images are for inputs of four dimensions"),
        (taking(TensorProto.INT8, x=["n", 3, 8, 8]), {}, "is int8 .*, images become floats or uint8"),
        (taking(a=["n", 3, 8, 8], b=["n"]), {"preprocess": "unit"}, r"the model has 2 inputs \(a, b\)"),
        (taking(x=[4, 3, 8, 8]), {"preprocess": "unit"}, "has 1 images .*expected at least 4"),
    ],
)
def test_unclear_images_are_one_sentence(
    pictures: Callable[..., Path], session: Session, options: dict[str, Any], message: str
) -> None:
    folder = pictures(**{"a.png": "red"})
    with pytest.raises(OnnxoptError, match=rf"pictures: .*{message}") as caught:
        open_data(folder, session, **options)
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(pictures: Callable[..., Path], tmp_path: Path) -> None:
    folder = pictures(**{"a.png": "red"})
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    with pytest.raises(OnnxoptError, match=r"b\.png: not an image that can be read"):
        list(open_data(folder, IMAGES, preprocess="unit"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OnnxoptError, match="has 0 images"):
        open_data(tmp_path / "empty", IMAGES, preprocess="unit")


# ---- functions -----------------------------------------------------------------------------------------------------


def test_a_function_by_name_is_called_for_every_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_data.py").write_text(
        "import numpy as np\n"
        "class Of:\n"
        "    @staticmethod\n"
        "    def batches():\n"
        "        for i in range(3):\n"
        "            yield {'x': np.full((2, 4), i)}, [i, i]\n"
    )
    monkeypatch.chdir(tmp_path)
    session = taking(TensorProto.INT64, x=["n", 4])
    data = open_data("own_data:Of.batches", session)
    assert seen(data) == [0, 0, 1, 1, 2, 2]
    assert seen(data) == [0, 0, 1, 1, 2, 2]
    assert data.name == "own_data:Of.batches"
    assert data.digest() == open_data("own_data:Of.batches", session).digest()
    assert data.digest() != data.take(2).digest()


@pytest.mark.parametrize("item", [np.ones((2, 4), np.float64), {"x": np.ones((2, 4))}, ({"x": np.ones((2, 4))}, None)])
def test_what_a_function_may_yield(item: Any) -> None:
    for spec in ([item, item], lambda: iter([item, item])):
        data = open_data(spec, VECTORS)
        assert everything(data) == [({"x": [[1.0] * 4] * 2}, None)] * 2
        assert open_data(data, VECTORS) is data


def raising() -> Iterator[Array]:
    yield np.ones((2, 4), np.float32)
    raise KeyError("gone")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([np.ones((2, 5), np.float32)], r"'x' is given float32 \[2, 5\], the model takes float32 \[n, 4\]"),
        ([np.ones((2, 4), int)], "is given int64"),
        ([{"z": np.ones((2, 4))}], "gives z; the model's inputs are x"),
        ([(np.ones((2, 4)), np.ones(3))], "gives 3 labels for 2 samples"),
        ([None], r"is given object \[\]"),
        (raising, r"test_data:raising: KeyError: 'gone' \(test_data.py, line \d+\)"),
        (lambda: 3, "TypeError: 'int' object is not iterable"),
    ],
)
def test_wrong_batches_are_one_sentence(spec: Any, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught:
        list(open_data(spec, VECTORS))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere.npz", "nowhere.npz: no such file; expected a .npz"),
        (__file__, r"test_data.py: is no data; expected a .npz or .npy file, a folder of images, or a function"),
        ("no_such_module:batches", r"no_such_module:batches: ModuleNotFoundError: No module named 'no_such_module'$"),
        ("math:tau", "math:tau: is a float, expected a function"),
        ((x for x in ()), "can be read only once; give the function"),
        (3, "can be read only once"),
    ],
)
def test_no_data_is_one_sentence(spec: Any, message: str) -> None:
    with pytest.raises(OnnxoptError, match=message):
        open_data(spec, VECTORS)


def test_only_images_are_prepared(arrays: Callable[..., Path]) -> None:
    with pytest.raises(OnnxoptError, match="only a folder of images is prepared"):
        open_data(arrays(x=np.zeros((9, 4))), VECTORS, preprocess="imagenet")


# ---- made up -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "batch"),
    [(["n", 3, 32, 32], 16), ([None, 24, 40, 3], 16), ([2, 1, 28, 28], 2), (["n", 3, "h", "w"], 16), ([1, 3, 8, 8], 1)],
)
def test_dead_leaves_are_normal_and_always_the_same(shape: list[int | str | None], batch: int) -> None:
    session = taking(x=shape)
    data = synthetic(session, {"x": (2.0, 5.0)}, 32)
    assert data.name == "dead leaves"
    images = np.concatenate([b.feeds["x"] for b in data]).astype(np.float64)
    assert len(images) == data.count() == 32
    assert {b.size for b in data} == {batch}
    axis = 1 if shape[1] in (1, 3) else 3
    others = tuple(i for i in range(4) if i != axis)
    assert images.mean(others) == pytest.approx(5, abs=1e-2)
    assert images.std(others) == pytest.approx(2, rel=1e-2)
    assert (images == np.concatenate([b.feeds["x"] for b in synthetic(session, {"x": (2.0, 5.0)}, 32)])).all()
    assert len(np.unique(images.reshape(32, -1), axis=0)) == 32, "no image twice"


def test_dead_leaves_have_the_spectrum_of_photographs() -> None:
    """Power falls about as f^-2, where noise's does not fall; and channels go together."""
    (batch, *_) = synthetic(taking(x=["n", 3, 128, 128]), count=16)
    images = batch.feeds["x"]
    power = (np.abs(np.fft.fft2(images)) ** 2).mean((0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(128), np.fft.fftfreq(128)))
    rings = [(frequency >= low) & (frequency < 1.4 * low) for low in (0.02, 0.04, 0.08, 0.16)]
    slope = np.polyfit(np.log([frequency[r].mean() for r in rings]), np.log([power[r].mean() for r in rings]), 1)[0]
    assert -3 < slope < -1.5
    assert np.corrcoef(images.transpose(1, 0, 2, 3).reshape(3, -1)).min() > 0.7


def test_other_inputs_get_noise() -> None:
    data = synthetic(quiet_session(lstm().SerializeToString()), count=20)
    assert data.name == "noise"
    assert data.count() >= 20
    assert everything(data) == everything(data)
    assert synthetic(taking(x=["n", 2, 32, 32])).name == "noise"
    assert synthetic(taking(x=["n", 3, 4, 4])).name == "noise"
    pixels = synthetic(taking(TensorProto.UINT8, x=[1, 16, 16, 3]), count=8)
    assert len(np.unique(np.concatenate([b.feeds["x"] for b in pixels]))) > 50


def test_the_scale_of_the_input_is_met() -> None:
    nodes = [helper.make_node("Sub", ["x", "m"], ["a"]), helper.make_node("Div", ["a", "s"], ["y"])]
    made = model(
        nodes, {"m": np.float32(127.5), "s": np.float32(128)}, {"x": ["n", 3, 16, 16]}, {"y": ["n", 3, 16, 16]}
    )
    (batch,) = synthetic(quiet_session(made.SerializeToString()), input_scale(made), 16)
    assert batch.feeds["x"].mean() == pytest.approx(127.5, abs=1)
    assert batch.feeds["x"].std() == pytest.approx(128, rel=0.01)


@pytest.mark.parametrize(("side", "limit"), [(224, 5.0), (32, 1.5)])
def test_256_images_are_made_in_seconds(side: int, limit: float) -> None:
    session = taking(x=["n", 3, side, side])
    start = time.process_time()
    assert sum(batch.size for batch in synthetic(session, count=256)) == 256
    assert time.process_time() - start < 2 * limit, "twice what is promised, as machines differ"


# ---- real models ---------------------------------------------------------------------------------------------------


@needs_data
def test_images_give_the_accuracy_that_is_known(tmp_path: Path) -> None:
    session = realdata.plain_session(realdata.MODELS / "mobilenet_v1_0.25.onnx")
    data = open_data(realdata.DATA / "imagenet" / "els300", session, preprocess="tensorflow")
    name = session.get_inputs()[0].name
    right = sum(int((session.run(None, {name: b.feeds[name]})[0].argmax(1) == b.labels).sum()) for b in data)
    assert data.count() == 300
    assert right / 3 == pytest.approx(realdata.evaluate("mobilenet_v1_0.25", session, "train").metric, abs=0.5)


@needs_data
def test_arrays_give_the_accuracy_that_is_known(tmp_path: Path) -> None:
    session = realdata.plain_session(realdata.MODELS / "lenet5.onnx")
    samples = realdata.mnist("test")
    np.savez(tmp_path / "mnist.npz", pixels=samples.images[:, None].astype(np.float32) / 256, y=samples.labels)
    data = open_data(tmp_path / "mnist.npz", session)
    right = sum(int((session.run(None, b.feeds)[0].argmax(1) == b.labels).sum()) for b in data)
    assert right == 9894
    for part in split(data, 0.2):
        assert set(seen(part)) == set(range(10))
