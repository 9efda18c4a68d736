"""Real models, their data, and their accuracy in ONNX Runtime.

The models and the data lie in one folder, named by the environment variable ONNXOPT_DATA (default: `shared` beside
the repository), as models/*.onnx and data/*; models of our own lie in the repository. The data of a model, and how it
is prepared, is in `TASKS`, by the file's stem.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw

import train_digits

Array = np.ndarray[Any, Any]
Part = Literal["train", "test"]

REPOSITORY = Path(__file__).resolve().parents[2]
ROOT = Path(os.environ.get("ONNXOPT_DATA") or REPOSITORY.parent / "shared")
MODELS = ROOT / "models"
DATA = ROOT / "data"
OWN_MODELS = REPOSITORY / "models"

SHARED = (
    "resnet20", "resnet32", "resnet56", "resnet56_dynamo", "lenet5", "resnet50v2_imagenette", "mobilefacenet",
    "squeezenet1.0", "squeezenet1.1", "mobilenet_v1_0.25", "mobilenet_v2", "mnist_cntk", "mobilenet_v2_int8_tflite",
    "silero_vad", "super_resolution", "ppocr_det", "magika", "dtln2_lstm",
)  # fmt: skip
"""Models of the shared folder that tables of all models have, those with a task first."""

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_STD = np.array([0.229, 0.224, 0.225], np.float32)
TENSORFLOW_MEAN = np.array([123.68, 116.78, 103.94], np.float32)


# ---- data: one reader a set, giving pixels as stored ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Samples:
    """uint8 images [n, height, width(, 3)], a label each, and for faces the pairs (first, second, same)."""

    images: Array
    labels: Array
    pairs: Array | None = None


def cifar10(part: Part) -> Samples:
    """32 x 32 RGB; each .webp holds 2,000 of them losslessly, 40 rows by 50 columns."""
    tiles = []
    for file in sorted((DATA / "cifar10").glob(f"{part}_*.webp")):
        sheet = np.asarray(Image.open(file).convert("RGB"))
        tiles.append(sheet.reshape(40, 32, 50, 32, 3).transpose(0, 2, 1, 3, 4).reshape(2000, 32, 32, 3))
    return Samples(np.concatenate(tiles), np.load(DATA / "cifar10" / f"{part}_labels.npy"))


def mnist(part: Part) -> Samples:
    """28 x 28 grey."""
    stored = np.load(DATA / "mnist" / "mnist.npz")
    return Samples(stored[f"x_{part}"], stored[f"y_{part}"])


def digits(part: Part) -> Samples:
    """8 x 8 grey, as the demo model's inputs: floats 0..1, [n, 1, 8, 8]."""
    train, train_labels, test, test_labels = train_digits.split()
    return Samples(train, train_labels) if part == "train" else Samples(test, test_labels)


def _photographs(folder: Path, size: int) -> Samples:
    """Folders of JPEGs, named by ImageNet class: the shorter side scaled to `size`, then the centre cropped."""
    images, labels = [], []
    for directory in sorted(p for p in folder.iterdir() if p.is_dir()):
        for file in sorted(directory.glob("*.jpg")):
            image = Image.open(file).convert("RGB")
            scale = size / min(image.size)
            if scale != 1:
                width, height = (max(size, round(side * scale)) for side in image.size)
                image = image.resize((width, height), Image.Resampling.BILINEAR)
            left, top = (image.width - size) // 2, (image.height - size) // 2
            images.append(np.asarray(image.crop((left, top, left + size, top + size))))
            labels.append(int(directory.name))
    return Samples(np.stack(images), np.array(labels))


def imagenet(part: Part) -> Samples:
    """224 x 224 centre crops of 256 x 256 photographs; test: 1,000 of 430 classes, train: 300 of 300."""
    whole = _photographs(DATA / "imagenet" / {"train": "els300", "test": "nips1000"}[part], 256)
    return Samples(whole.images[:, 16:240, 16:240], whole.labels)


def imagenette(part: Part) -> Samples:
    """224 x 224 photographs of ten ImageNet classes; labels 0..9 in the order of the class folders."""
    whole = _photographs(DATA / "imagenette" / {"train": "train", "test": "val"}[part], 224)
    return Samples(whole.images, np.unique(whole.labels, return_inverse=True)[1])


def small_photographs(part: Part) -> Samples:
    """ImageNet's photographs at 112 x 112, for a model of faces: LFW has no training part here."""
    whole = _photographs(DATA / "imagenet" / {"train": "els300", "test": "nips1000"}[part], 112)
    return Samples(whole.images, whole.labels)


def lfw(part: Part) -> Samples:
    """112 x 112 aligned faces of the first three of LFW's ten folds, 600 pairs each; there is no training part."""
    if part == "train":
        raise ValueError("LFW has only a test part here")
    folder = DATA / "lfw"
    files: dict[Path, int] = {}

    def index(name: str, number: str) -> int:
        return files.setdefault(folder / name / f"{name}_{int(number):04d}.jpg", len(files))

    pairs = []
    for line in (folder / "pairs.txt").read_text().splitlines()[1:]:
        word = line.split()
        same = len(word) == 3
        other = (word[0], word[2]) if same else (word[2], word[3])
        pairs.append((index(word[0], word[1]), index(*other), int(same)))
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return Samples(images, np.zeros(len(images), np.int64), np.array(pairs))


# ---- preparation: pixels to the model's input ----------------------------------------------------------------------


def _nchw(images: Array) -> Array:
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32)


def _standard(images: Array) -> Array:
    return _nchw((images.astype(np.float32) / 255 - IMAGENET_MEAN) / IMAGENET_STD)


def _tensorflow_centred(images: Array) -> Array:
    return _nchw((images.astype(np.float32) - TENSORFLOW_MEAN) / 255)


def _minus_one_to_one(images: Array) -> Array:
    return images.astype(np.float32) / 127.5 - 1


def _grey(divisor: float) -> Callable[[Array], Array]:
    return lambda images: images[:, None].astype(np.float32) / divisor


def _unchanged(images: Array) -> Array:
    return images


def _of_160_pixels(images: Array) -> Array:
    return np.stack([np.asarray(Image.fromarray(one).resize((160, 160), Image.Resampling.BILINEAR)) for one in images])


# ---- tasks ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """What a model is for: its data, how pixels become its input, and where its classes start."""

    data: str
    read: Callable[[Part], Samples]
    prepare: Callable[[Array], Array]
    first_class: int = 0
    """Output of class 0; 1 where output 0 is a background class."""
    stand_in: Callable[[Part], Samples] | None = None
    """What to calibrate on where the data has no training part."""

    def batches(self, part: Part, count: int | None = None, labelled: bool = False) -> Callable[[], Iterator[Any]]:
        """What `onnxopt.optimize` takes as data: the first `count` images of a part, shuffled, in batches of 32.

        Unlabelled ones come from `stand_in` where there is one.
        """
        samples = (self.read if labelled or self.stand_in is None else self.stand_in)(part)
        order = np.random.default_rng(0).permutation(len(samples.images[:count]))

        def start() -> Iterator[Any]:
            for i in range(0, len(order), 32):
                feeds = self.prepare(samples.images[order[i : i + 32]])
                yield (feeds, samples.labels[order[i : i + 32]] + self.first_class) if labelled else feeds

        return start


_CIFAR10 = Task("CIFAR-10", cifar10, _standard)
_IMAGENET = Task("ImageNet, 1,000 photographs", imagenet, _standard)

TASKS: dict[str, Task] = {
    "digits": Task("scikit-learn's digits", digits, _unchanged),
    "resnet20": _CIFAR10,
    "resnet32": _CIFAR10,
    "resnet56": _CIFAR10,
    "resnet56_dynamo": _CIFAR10,
    "resnet8_keras": Task("CIFAR-10", cifar10, lambda images: images.astype(np.float32)),
    "lenet5": Task("MNIST", mnist, _grey(256)),
    "lenet_300_100": Task("MNIST", mnist, _grey(256)),
    "mnist_cntk": Task("MNIST", mnist, _grey(1)),
    "squeezenet1.0": Task(_IMAGENET.data, imagenet, _tensorflow_centred, first_class=1),
    "squeezenet1.1": _IMAGENET,
    "mobilenet_v1_0.25": Task(_IMAGENET.data, imagenet, _minus_one_to_one),
    "mobilenet_v2": _IMAGENET,
    "mobilenet_v1_0.5_int8_tflite": Task(_IMAGENET.data, imagenet, _of_160_pixels, first_class=1),
    "mobilenet_v2_int8_tflite": Task(_IMAGENET.data, imagenet, _unchanged, first_class=1),
    "resnet50v2_imagenette": Task("Imagenette", imagenette, _standard),
    "mobilefacenet": Task("LFW, 1,800 pairs", lfw, _nchw, stand_in=small_photographs),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a model did on its data."""

    metric: float
    """Percent: top-1, or for faces the share of pairs told right."""
    predictions: Array
    """For each image its class; for faces, for each pair its cosine similarity."""
    outputs: Array
    """The model's first output, [n, ...]."""
    seconds: float
    """Of inference, preparation included."""


def evaluate(
    model: str, session: onnxruntime.InferenceSession, part: Part = "test", limit: int | None = None, batch: int = 50
) -> Outcome:
    """Runs a session of the model named `model` (a key of TASKS) over a part of its data.

    Takes `batch` images at a time where the model allows it, else one. `limit` takes that many images, spread
    evenly over the part (of faces: pairs). Raises KeyError for a model without a task.
    """
    task = TASKS[model]
    samples = _limited(task.read(part), limit)
    start = time.perf_counter()
    entry = session.get_inputs()[0]
    size = entry.shape[0] if isinstance(entry.shape[0], int) else batch
    found = [
        session.run(None, {entry.name: task.prepare(samples.images[i : i + size])})[0]
        for i in range(0, len(samples.images), size)
    ]
    outputs = np.concatenate(found).reshape(len(samples.images), -1)
    seconds = time.perf_counter() - start
    if samples.pairs is not None:
        predictions = _similarities(outputs, samples.pairs)
        metric = verification_accuracy(predictions, samples.pairs[:, 2] == 1)
    else:
        predictions = outputs.argmax(1) - task.first_class
        metric = 100 * float((predictions == samples.labels).mean())
    return Outcome(metric, predictions, outputs, seconds)


def _limited(samples: Samples, limit: int | None) -> Samples:
    count = len(samples.images) if samples.pairs is None else len(samples.pairs)
    if limit is None or limit >= count:
        return samples
    chosen = np.linspace(0, count, limit, endpoint=False).astype(int)
    if samples.pairs is None:
        return Samples(samples.images[chosen], samples.labels[chosen])
    pairs = samples.pairs[chosen]
    faces, renumbered = np.unique(pairs[:, :2], return_inverse=True)
    pairs = np.column_stack([renumbered.reshape(-1, 2), pairs[:, 2]])
    return Samples(samples.images[faces], samples.labels[faces], pairs)


def _similarities(embeddings: Array, pairs: Array) -> Array:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    return np.asarray((unit[pairs[:, 0]] * unit[pairs[:, 1]]).sum(1))


def verification_accuracy(similarity: Array, same: Array) -> float:
    """Percent, LFW's protocol on three folds: the threshold is chosen on two and scored on the third."""
    fold = np.arange(len(same)) * 3 // len(same)
    right = 0
    for k in range(3):
        s, t = similarity[fold != k], same[fold != k]
        order = np.argsort(s)
        # Threshold below the i-th smallest: right are the different pairs before it and the same pairs from it on.
        hits = np.concatenate([[0], np.cumsum(~t[order])]) + np.concatenate([np.cumsum(t[order][::-1])[::-1], [0]])
        best = int(np.argmax(hits))
        ends = np.concatenate([[-1.0], s[order], [1.0]])
        threshold = (ends[best] + ends[best + 1]) / 2
        right += int(((similarity[fold == k] >= threshold) == same[fold == k]).sum())
    return 100 * right / len(same)


# ---- inputs for comparing outputs, where there is no labelled data -------------------------------------------------


def sensible_inputs(model: str) -> list[dict[str, Array]]:
    """A few inputs that the model might meet in use: photographs, a hummed vowel, source files.

    Deterministic. Raises KeyError for a model it does not know.
    """
    if model in TASKS:
        task = TASKS[model]
        size = 1 if model == "mnist_cntk" or model.endswith("_int8_tflite") else 8
        images = _limited(task.read("test"), 8).images[:8]
        name = {
            "mnist_cntk": "Input3",
            "mobilefacenet": "data",
            "mobilenet_v1_0.25": "input_2",
            "resnet8_keras": "input_1",
        }.get(model, "input")
        return [{name: task.prepare(images[i : i + size])} for i in range(0, 8, size)]
    return list(_OTHER_INPUTS[model]())


def _super_resolution() -> Iterator[dict[str, Array]]:
    images = _limited(imagenet("train"), 4).images.astype(np.float32)
    luma = images @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    yield {"input": luma[:, None]}


def _ppocr() -> Iterator[dict[str, Array]]:
    """Photographs with lines of text across."""
    for image in _limited(imagenet("train"), 2).images:
        large = Image.fromarray(image).resize((640, 640), Image.Resampling.BILINEAR)
        draw = ImageDraw.Draw(large)
        for line in range(6):
            draw.rectangle((60, 40 + 100 * line, 560, 80 + 100 * line), fill="white")
            draw.text((80, 45 + 100 * line), f"Line {line} of the page", fill="black", font_size=28)
        yield {"image": _standard(np.asarray(large)[None])}


def _hum(samples: int) -> Array:
    """[samples] at 16 kHz: a 120 Hz vowel, harmonics falling as 1/k, swelling and fading, with a little noise."""
    t = np.arange(samples) / 16000
    voice = sum(np.sin(2 * np.pi * 120 * k * t) / k for k in range(1, 20)) * np.sin(2 * np.pi * 3 * t) ** 2
    noise = np.random.default_rng(0).normal(0, 0.01, samples)
    return np.asarray(0.2 * voice + noise, np.float32)


def _silero_vad() -> Iterator[dict[str, Array]]:
    for frame in _hum(8 * 512).reshape(8, 1, 512):
        yield {"input": frame, "state": np.zeros((2, 1, 128), np.float32), "sr": np.array(16000, np.int64)}


def _dtln2() -> Iterator[dict[str, Array]]:
    for frame in _hum(8 * 512).reshape(8, 1, 1, 512):
        yield {"input_4": frame, "input_5": np.zeros((1, 2, 128, 2), np.float32)}


def _magika() -> Iterator[dict[str, Array]]:
    """[files, 2048]: the first and the last 1,024 bytes of a file, short ones filled up with 256."""
    rows = []
    for file in sorted(Path(os.__file__).parent.glob("[a-d]*.py"))[:16]:
        content = np.frombuffer(file.read_bytes().strip(), np.uint8).astype(np.int32)
        row = np.full(2048, 256, np.int32)
        head, tail = content[:1024], content[-1024:]
        row[: len(head)], row[2048 - len(tail) :] = head, tail
        rows.append(row)
    yield {"bytes": np.stack(rows)}


_OTHER_INPUTS: dict[str, Callable[[], Iterator[dict[str, Array]]]] = {
    "super_resolution": _super_resolution,
    "ppocr_det": _ppocr,
    "silero_vad": _silero_vad,
    "dtln2_lstm": _dtln2,
    "magika": _magika,
}


# ---- sessions ------------------------------------------------------------------------------------------------------


def path_of(model: str) -> Path:
    """The file of the model with this name: one of our own, or in the shared folder."""
    own = OWN_MODELS / f"{model}.onnx"
    return own if own.is_file() else MODELS / own.name


def options(threads: int = 2) -> onnxruntime.SessionOptions:
    """Session options with `threads` threads and the runtime's warnings off."""
    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    chosen.log_severity_level = 3
    return chosen


def plain_session(path: Path) -> onnxruntime.InferenceSession:
    """Stock ONNX Runtime on a plain model."""
    return onnxruntime.InferenceSession(str(path), options(), providers=["CPUExecutionProvider"])


def registered_session(path: Path) -> onnxruntime.InferenceSession:
    """Stock ONNX Runtime on a compressed (or plain) model, with onnxopt's library registered."""
    import onnxopt  # noqa: PLC0415 - what needs no compressed model needs no onnxopt

    chosen = options()
    onnxopt.register(chosen)
    return onnxruntime.InferenceSession(str(path), chosen, providers=["CPUExecutionProvider"])
