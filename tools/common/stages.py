"""What a page of the documents starts with: the files that its commands name."""

from __future__ import annotations

import shutil
import wave
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

import onnxopt
from common import realdata
from tables import CannotMeasureError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
WORDS = (
    "the",
    "a",
    "cat",
    "dog",
    "sits",
    "runs",
    "on",
    "mat",
    "rug",
    "with",
    "small",
    "text",
    "query",
    "finds",
    "near",
)


def _model(name: str, folder: Path) -> None:
    path = realdata.path_of(name)
    if not path.is_file():
        raise CannotMeasureError(f"needs {path}; ONNXOPT_DATA names the folder above")
    shutil.copy(path, folder)


def small(folder: Path) -> None:
    """A small network for RGB images of 8 x 8, its data in all forms, and an encoder with its texts."""
    sentences(folder)
    onnx.save(_network(), folder / "network.onnx")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (96, 8, 8, 3), np.uint8)
    inputs = ((pixels / 255 - realdata.IMAGENET_MEAN) / realdata.IMAGENET_STD).transpose(0, 3, 1, 2).astype(np.float32)
    (scores,) = realdata.plain_session(folder / "network.onnx").run(None, {"input": inputs})
    labels = scores.argmax(1)
    for name, part in (("train", slice(64)), ("test", slice(64, None))):
        np.savez(folder / f"{name}.npz", input=inputs[part], labels=labels[part])
    for i, label in enumerate(labels):
        place = folder / "images" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i]).save(place / f"{i}.png")
    (folder / "mypkg").mkdir()
    (folder / "mypkg" / "__init__.py").touch()
    (folder / "mypkg" / "mydata.py").write_text(_MYDATA)


def pipeline(folder: Path) -> None:
    """The same, with a folder of models, and one that is compressed."""
    small(folder)
    (folder / "models").mkdir()
    for name in ("first", "resnet"):
        shutil.copy(folder / "network.onnx", folder / "models" / f"{name}.onnx")
    onnxopt.optimize(folder / "network.onnx", folder / "small.onnx", lossless=True)


_MYDATA = """
import numpy as np

def batches():
    with np.load("train.npz") as stored:
        for i in range(0, 64, 16):
            yield stored["input"][i : i + 16], stored["labels"][i : i + 16]

def score(outputs, labels):
    return float((outputs[0].argmax(1) == labels).mean())
"""


def dress(words: list[str], folder: Path) -> None:
    """Makes `model.onnx` what these words are for, where the folder has both models."""
    if (folder / "network.onnx").is_file():
        shutil.copy(folder / ("encoder.onnx" if "--tokenizer" in words else "network.onnx"), folder / "model.onnx")


def _network() -> onnx.ModelProto:
    """A convolution, and a layer of ten classes."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(size=(16, 3, 3, 3)) / 5, "v": rng.normal(size=(1024, 10)) / 32}
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("Flatten", ["r"], ["f"]),
        helper.make_node("MatMul", ["f", "v"], ["output"]),
    ]
    image = helper.make_tensor_value_info("input", 1, ["batch", 3, 8, 8])
    output = helper.make_tensor_value_info("output", 1, ["batch", 10])
    graph = helper.make_graph(nodes, "network", [image], [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def images(folder: Path) -> None:
    """ResNet-20, and photographs in a folder for each class."""
    _model("resnet20", folder)
    for name, samples, count in (("images", realdata.cifar10("train"), 200), ("test", realdata.cifar10("test"), 1000)):
        for i in range(count):
            label = samples.labels[i]
            place = folder / name / f"{label}_{CLASSES[label]}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(samples.images[i]).save(place / f"{i:04}.png")


def speech(folder: Path) -> None:
    """Silero's detector, and a recording."""
    _model("silero_half", folder)
    shutil.copy(realdata.DATA / "speech" / "test.wav", folder / "recording.wav")
    with wave.open(str(folder / "recording.wav")) as file:
        assert file.getframerate() == 16000


def detector(folder: Path) -> None:
    """PP-OCR's detector."""
    _model("ppocr_det", folder)


def sentences(folder: Path) -> None:
    """A small encoder in place of the real one, and sentences."""
    onnx.save(_encoder(), folder / "encoder.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(["[UNK]", *WORDS])}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    rng = np.random.default_rng(0)
    for name in ("texts.txt", "queries.txt"):
        lines = [" ".join(rng.choice(WORDS, rng.integers(4, 12))) for _ in range(120)]
        (folder / name).write_text("\n".join(lines) + "\n")


def _encoder() -> onnx.ModelProto:
    """Embeds ids, mixes them by two layers, and takes the mean where the mask is 1."""
    rng = np.random.default_rng(0)
    weights = {
        "table": rng.normal(size=(64, 96)),
        "w1": rng.normal(size=(96, 256)) / 10,
        "w2": rng.normal(size=(256, 96)) / 16,
    }
    stored = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()]
    stored += [numpy_helper.from_array(np.array([2]), "last"), numpy_helper.from_array(np.array([1]), "middle")]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "w1"], ["wide"]),
        helper.make_node("Relu", ["wide"], ["active"]),
        helper.make_node("MatMul", ["active", "w2"], ["mixed"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=1),
        helper.make_node("Unsqueeze", ["mask", "last"], ["mask3"]),
        helper.make_node("Mul", ["mixed", "mask3"], ["masked"]),
        helper.make_node("ReduceMean", ["masked", "middle"], ["embedding"], keepdims=0),
    ]
    ids = [helper.make_tensor_value_info(name, 7, ["batch", "length"]) for name in ("input_ids", "attention_mask")]
    output = helper.make_tensor_value_info("embedding", 1, ["batch", 96])
    graph = helper.make_graph(nodes, "encoder", ids, [output], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


STAGES: dict[str, Callable[[Path], None]] = {
    "README.md": small,
    "docs/guide.md": small,
    "docs/text.md": small,
    "docs/result.md": small,
    "docs/howto/data.md": small,
    "docs/classical.md": small,
    "docs/loader.md": pipeline,
    "docs/pipelines.md": pipeline,
    "docs/howto/contracts.md": small,
    "docs/howto/speed.md": small,
    "docs/tutorials/images.md": images,
    "docs/tutorials/speech.md": speech,
    "docs/tutorials/detector.md": detector,
    "docs/tutorials/sentences.md": sentences,
}
"""By page, in a folder of its own."""
