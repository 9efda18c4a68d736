"""The reader of image folders."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from feeding import VECTORS, seen, taking
from onnx import TensorProto
from PIL import Image

from common import realdata
from onnxopt.data import PRESETS, Array, ImageOptions, open_data
from onnxopt.errors import OnnxoptError

needs_data = pytest.mark.skipif(
    not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names their folder"
)


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


IMAGES = taking(x=["n", 3, 8, 8])
Session = onnxruntime.InferenceSession


def test_class_folders_are_labels(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"cat/a.PNG": "red", "dog/deep/b.jpeg": "blue", "ape/c.bmp": "lime", "ape/.d.png": "red"})
    (folder / "cat" / "notes.txt").write_text("no image")
    data = open_data(folder, IMAGES, ImageOptions("unit"))
    colours = {}
    for batch in data:
        assert batch.labels is not None
        for image, label in zip(batch.feeds["x"], batch.labels.tolist(), strict=True):
            colours[label] = int(image[:, 4, 4].argmax())
    assert colours == {0: 1, 1: 0, 2: 2}, "ape is green, cat is red, dog is blue"


def test_folders_of_numbers_are_those_labels(pictures: Callable[..., Path]) -> None:
    data = open_data(pictures(**{"007/a.png": "red", "10/b.png": "red"}), IMAGES, ImageOptions("unit"))
    assert sorted(seen(data)) == [7, 10]


@pytest.mark.parametrize("paths", [["a.png", "b.png"], ["a.png", "cat/b.png"], ["images/a.png", "images/b.png"]])
def test_no_labels_without_classes(pictures: Callable[..., Path], paths: list[str]) -> None:
    data = open_data(pictures(**dict.fromkeys(paths, "red")), IMAGES, ImageOptions("unit"))
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
    (batch,) = open_data(folder, IMAGES, ImageOptions(**options))
    assert batch.feeds["x"].dtype == np.float32
    assert batch.feeds["x"][0, :, 3, 5] == pytest.approx(expected, rel=1e-5, abs=1e-5)
    (batch,) = open_data(folder, taking(x=["n", 8, 8, 3]), ImageOptions(**options))
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
        (batch,) = open_data(folder, session, ImageOptions("raw", **options))
        assert batch.feeds["x"].shape == shape
        if 1 in shape[1:]:
            assert batch.feeds["x"].ravel() == pytest.approx(grey, abs=1)


def test_uint8_takes_pixels_as_they_are(pictures: Callable[..., Path]) -> None:
    folder, session = pictures(**{"a.png": PIXEL}), taking(TensorProto.UINT8, x=[1, 8, 8, 3])
    (batch,) = open_data(folder, session)
    assert batch.feeds["x"].dtype == np.uint8
    assert batch.feeds["x"][0, 0, 0].tolist() == list(PIXEL)
    with pytest.raises(OnnxoptError, match="is uint8 and takes pixels as they are"):
        open_data(folder, session, ImageOptions("imagenet"))


def test_the_centre_is_cropped_after_scaling_the_shorter_side(pictures: Callable[..., Path]) -> None:
    wide = np.zeros((256, 512, 3), np.uint8)
    wide[16:240, 144:368] = np.random.default_rng(0).integers(0, 256, (224, 224, 3))
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(wide)}), taking(x=[1, 224, 224, 3]), ImageOptions("raw"))
    assert (batch.feeds["x"][0] == wide[16:240, 144:368]).all(), "of 256 x 512, no scaling"
    ramp = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2) * np.ones((1, 300, 1), np.uint8)
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(ramp)}), taking(x=[1, 112, 112, 3]), ImageOptions("raw"))
    assert batch.feeds["x"][0, 0].mean() == pytest.approx(16.5, abs=0.5), "1/16 of the height is cut off"
    assert batch.feeds["x"][0, -1].mean() == pytest.approx(238.5, abs=0.5)
    small = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    (batch,) = open_data(pictures(**{"a.png": Image.fromarray(small)}), taking(x=[1, 8, 8, 3]), ImageOptions("raw"))
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
    data = open_data(folder, IMAGES, ImageOptions("own_images:good"))
    assert {tuple(image[:, 0, 0]) for batch in data for image in batch.feeds["x"]} == {PIXEL, (77, 77, 77)}
    with pytest.raises(OnnxoptError, match=r"own_images:flat: input 'x' is given float64 \[1, 7\], the model takes"):
        list(open_data(folder, IMAGES, ImageOptions("own_images:flat")))
    with pytest.raises(OnnxoptError, match=r"own_images:bad: AttributeError: .*own_images.py, line 7"):
        list(open_data(folder, IMAGES, ImageOptions("own_images:bad")))


def test_the_digest_is_of_contents_and_preparation(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"a.png": "red", "b.png": "blue"})
    digests = {name: open_data(folder, IMAGES, ImageOptions(name)).digest() for name in PRESETS}
    assert len(set(digests.values())) == len(PRESETS)
    pictures(**{"a.png": "red"})
    unit = ImageOptions("unit")
    assert open_data(folder, IMAGES, unit).digest() == digests["unit"], "of the files, not of their dates"
    pictures(**{"b.png": "navy"})
    assert open_data(folder, IMAGES, unit).digest() != digests["unit"]


def test_images_are_decoded_batch_by_batch(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{f"{i}.png": (i, 0, 0) for i in range(160)})
    session = taking(x=["n", 3, 256, 256])
    tracemalloc.start()
    count = sum(batch.size for batch in open_data(folder, session, ImageOptions("imagenet")))
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
        open_data(folder, session, ImageOptions(**options))
    assert "\n" not in str(caught.value)


def test_an_image_that_cannot_be_read_is_named(pictures: Callable[..., Path], tmp_path: Path) -> None:
    folder = pictures(**{"a.png": "red"})
    (folder / "b.png").write_bytes((folder / "a.png").read_bytes()[:40])
    with pytest.raises(OnnxoptError, match=r"b\.png: not an image that can be read"):
        list(open_data(folder, IMAGES, ImageOptions("unit")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(OnnxoptError, match="has 0 images"):
        open_data(tmp_path / "empty", IMAGES, ImageOptions("unit"))


@needs_data
@pytest.mark.slow
def test_images_give_the_accuracy_that_is_known(tmp_path: Path) -> None:
    session = realdata.plain_session(realdata.MODELS / "mobilenet_v1_0.25.onnx")
    data = open_data(realdata.DATA / "imagenet" / "els300", session, ImageOptions("tensorflow"))
    name = session.get_inputs()[0].name
    right = sum(int((session.run(None, {name: b.feeds[name]})[0].argmax(1) == b.labels).sum()) for b in data)
    assert data.count() == 300
    assert right / 3 == pytest.approx(realdata.evaluate("mobilenet_v1_0.25", session, "train").metric, abs=0.5)


def shown(folder: Path, session: Session = IMAGES) -> Array:
    """The one image of the folder as the model gets it, in 0..255."""
    (batch,) = open_data(folder, session, ImageOptions("raw"))
    return batch.feeds["x"][0]


def test_sixteen_bit_greys_keep_their_brightness(pictures: Callable[..., Path]) -> None:
    ramp = np.linspace(0, 65535, 64).reshape(8, 8)
    seen = shown(pictures(**{"a.png": Image.fromarray(ramp.astype(np.uint16))}))
    assert np.abs(seen - ramp / 257).max() <= 0.5 + 1e-3
    seen = shown(pictures(**{"a.png": Image.fromarray(ramp.astype(np.uint16))}), taking(x=[1, 8, 8, 1]))
    assert np.abs(seen[..., 0] - ramp / 257).max() <= 0.5 + 1e-3


def test_what_is_transparent_is_white(pictures: Callable[..., Path]) -> None:
    half = Image.new("RGBA", (8, 8), (200, 100, 0, 255))
    half.paste((0, 0, 0, 0), (0, 0, 8, 4))
    grey = Image.new("LA", (8, 8), (100, 255))
    grey.paste((0, 0), (0, 0, 8, 4))
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 0])
    palette.paste(0, (0, 0, 8, 4))
    keyed = Image.new("RGB", (8, 8), (200, 100, 0))
    keyed.paste((1, 2, 3), (0, 0, 8, 4))
    for image, options, below in [
        (half, {}, (200, 100, 0)), (grey, {}, (100, 100, 100)), (palette, {"transparency": 0}, (200, 100, 0)),
        (palette, {"transparency": bytes([0, 255])}, (200, 100, 0)),
        (keyed, {"transparency": (1, 2, 3)}, (200, 100, 0)),
    ]:  # fmt: skip
        folder = pictures(**{"a.png": "red"})
        image.save(folder / "a.png", **options)
        seen = shown(folder)
        assert (seen[:, :4] == 255).all(), image.mode
        assert tuple(seen[:, 6, 3]) == below, image.mode
    see_through = Image.new("RGBA", (8, 8), (0, 0, 0, 51))
    assert shown(pictures(**{"a.png": see_through}))[:, 0, 0].tolist() == [204] * 3


def test_other_colours(pictures: Callable[..., Path]) -> None:
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, *PIXEL])
    assert tuple(shown(pictures(**{"a.png": palette}))[:, 0, 0]) == PIXEL
    assert shown(pictures(**{"a.png": Image.new("1", (8, 8), 1)}))[:, 0, 0].tolist() == [255] * 3
    folder = pictures(**{"b.jpg": Image.new("CMYK", (8, 8), (0, 255, 255, 0))})
    (folder / "a.png").unlink()
    red, green, blue = shown(folder)[:, 0, 0]
    assert red > 240
    assert max(green, blue) < 15


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_images_are_upright(pictures: Callable[..., Path], orientation: int, suffix: str) -> None:
    """A bright quarter, top left as a viewer shows it, whatever the camera stored."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = Image.new("RGB", (32, 32), "black")
    image.paste((255, 255, 255), (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x112] = orientation
    folder = pictures(**{"keep.png": "red"})
    (folder / "keep.png").unlink()
    turned = image.transpose(stored[orientation]) if orientation > 1 else image
    turned.save(folder / f"a.{suffix}", exif=exif)
    seen = shown(folder, taking(x=["n", 3, 32, 32]))
    assert seen[:, :12, :12].min() > 200
    assert max(seen[:, 20:].max(), seen[:, :, 20:].max()) < 55


def test_damaged_exif_data_says_nothing(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"keep.png": "red"})
    (folder / "keep.png").unlink()
    Image.new("RGB", (8, 8), "red").save(folder / "a.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\xff\x01\x12damaged")
    assert shown(folder)[0].min() > 240


def test_what_is_no_image_among_images(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"a.png": "red"})
    (folder / "folder.png").mkdir()
    assert open_data(folder, IMAGES, ImageOptions("unit")).count() == 1
    (folder / "link.png").symlink_to("nowhere.png")
    with pytest.raises(OnnxoptError, match=r"link\.png: cannot be read: it is a link to nowhere\.png"):
        open_data(folder, IMAGES, ImageOptions("unit"))


def test_a_function_that_prepares_no_numbers(pictures: Callable[..., Path]) -> None:
    folder = pictures(**{"a.png": "red"})
    options = ImageOptions(lambda image: np.full((3, 8, 8), np.nan))
    with pytest.raises(OnnxoptError, match=r"input 'x' holds nan.* \(.*a\.png\)"):
        list(open_data(folder, IMAGES, options))
    with pytest.raises(OnnxoptError, match="mean and standard deviation"):
        open_data(folder, IMAGES, ImageOptions(mean=[np.nan]))
