"""Models that packages carry, with inputs like those in use and what their answers are.

The inputs that a model is compressed on and those that it is measured on have nothing in common.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer

from common import bert, realdata, speech
from common.packaged import ENCODER, packaged, sentences
from onnxopt.data import Spec, open_data

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Part = Literal["given", "kept"]
"""Inputs to compress on, and inputs to measure on."""

_TEXTS, _WORDS, _IMAGES, _LINES = 200, 400, 48, 64
"""Of each part."""
_ALPHABET = "!\"#$%&'()*+,-./0123456789:;<=>?@_abcdefghijklmnopqrstuvwxyz"
"""The characters that chars2vec knows, in its order."""


@dataclass(frozen=True, slots=True)
class Deployed:
    """A model."""

    what: str
    inputs: str
    """What it is measured on."""
    feeds: Callable[[str, Part], list[Feeds]]
    """One-sample feeds, by the model's name."""
    agreement: str
    """What `same` is the share of."""
    same: Callable[[list[Array], list[Array]], float]
    """Percent, of the answers of the original and those of another file."""
    output: str = ""
    """That counts; the first where it is not named."""
    texts: bool = False
    """Whether it is compressed on a file of texts, as batches that the tokenizer pads."""


def path_of(name: str) -> Path:
    """The model's file; what a package has as weights alone is written beside it once."""
    if name != _WEIGHTS:
        return packaged(name)
    weights = packaged(name)
    file = weights.with_suffix(".onnx")
    if not file.is_file():
        onnx.save(bert.bert(bert.MINILM, bert.of_safetensors(weights)), file)
    return file


def given(name: str, folder: Path) -> Spec:
    """What a user gives as data."""
    model = DEPLOYED[name]
    if not model.texts:
        return lambda: iter(model.feeds(name, "given"))
    file = folder / "given.txt"
    file.write_text("\n".join(_texts("given")), encoding="utf-8")
    return open_data(file, realdata.plain_session(path_of(name)), tokenizer=packaged("tokenizer"))


def answers(name: str, file: Path, part: Part) -> list[Array]:
    """The output that counts, for each feed."""
    session, model = realdata.registered_session(file), DEPLOYED[name]
    wanted = [model.output] if model.output else [session.get_outputs()[0].name]
    return [session.run(wanted, feeds)[0] for feeds in model.feeds(name, part)]


# ---- inputs ------------------------------------------------------------------------------------------------------


def _texts(part: Part) -> list[str]:
    every = sentences(2 * _TEXTS)
    return every[:_TEXTS] if part == "given" else every[_TEXTS:]


def _ids(name: str, part: Part) -> list[Feeds]:
    tokenizer = Tokenizer.from_file(str(packaged("tokenizer")))
    tokenizer.no_padding()
    known = [one.name for one in realdata.plain_session(path_of(name)).get_inputs()]
    found = []
    for text in _texts(part):
        one = tokenizer.encode(text)
        feeds = {"input_ids": one.ids, "attention_mask": one.attention_mask, "token_type_ids": one.type_ids}
        found.append({name: np.array([feeds[name]]) for name in known})
    return found


def _words(name: str, part: Part) -> list[Feeds]:
    """Words as one-hot characters."""
    words = sorted({word for text in sentences(2000) for word in text.lower().split() if word.isalpha()})
    chosen = [words[i] for i in np.random.default_rng(0).permutation(len(words))[: 2 * _WORDS]]
    rows = np.eye(len(_ALPHABET), dtype=np.float32)
    half = chosen[:_WORDS] if part == "given" else chosen[_WORDS:]
    known = [[c for c in word if c in _ALPHABET] for word in half]
    return [{"lstm_input": rows[[_ALPHABET.index(c) for c in word]][None]} for word in known if word]


def _faces(name: str, part: Part) -> list[Feeds]:
    faces = realdata.lfw("test").images
    chosen = faces[: 2 * _IMAGES][::2] if part == "given" else faces[2 * _IMAGES : 4 * _IMAGES : 2]
    images = [Image.fromarray(face).resize((320, 320), Image.Resampling.BILINEAR) for face in chosen]
    return [{"images": _planes(np.asarray(image, np.float32) / 255)} for image in images]


@cache
def _photographs(part: Part) -> Array:
    images = realdata.imagenet("train" if part == "given" else "test").images
    return images[:_LINES]


def _line(text: str, background: Array, size: tuple[int, int], height: int, dark: bool) -> Array:
    """A line of text across a patch of a photograph."""
    image = Image.fromarray(background).resize(size, Image.Resampling.BILINEAR)
    plain = Image.new("RGB", size, (255, 255, 255) if dark else (0, 0, 0))
    image = Image.blend(image, plain, 0.6)
    ImageDraw.Draw(image).text((6, size[1] // 2), text, (20, 20, 20) if dark else (240, 240, 240),
                               ImageFont.load_default(height), anchor="lm")  # fmt: skip
    return np.asarray(image, np.float32)


def _lines(part: Part, size: tuple[int, int], height: int, letters: int) -> list[Array]:
    drawn = zip(_texts(part), _photographs(part), strict=False)
    return [_line(text[:letters], back, size, height, i % 2 == 0) for i, (text, back) in enumerate(drawn)]


def _reader(name: str, part: Part) -> list[Feeds]:
    return [{"x": _planes(line / 127.5 - 1)} for line in _lines(part, (320, 48), 30, 24)]


def _turned(name: str, part: Part) -> list[Feeds]:
    """Every other line upside down."""
    lines = _lines(part, (160, 80), 40, 10)
    return [{"x": _planes(_standard(line[::-1, ::-1] if i % 2 else line))} for i, line in enumerate(lines)]


def _pages(name: str, part: Part) -> list[Feeds]:
    """Five lines across each photograph."""
    texts, found = _texts(part), []
    for i, photograph in enumerate(_photographs(part)[: _IMAGES // 2]):
        image = Image.fromarray(photograph).resize((320, 320), Image.Resampling.BILINEAR)
        for row in range(5):
            ImageDraw.Draw(image).text((10 + 12 * row, 20 + 60 * row), texts[5 * i + row][:22], (255, 255, 255),
                                       ImageFont.load_default(18 + 3 * row), stroke_width=1,
                                       stroke_fill=(0, 0, 0))  # fmt: skip
        found.append({"x": _planes(_standard(np.asarray(image, np.float32)))})
    return found


def _standard(image: Array) -> Array:
    return np.asarray((image / 255 - realdata.IMAGENET_MEAN) / realdata.IMAGENET_STD, np.float32)


def _planes(image: Array) -> Array:
    return np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32)


def _music(name: str, part: Part) -> list[Feeds]:
    """Two seconds of speech over decaying chords, at 22,050 Hz."""
    rate, length = 22050, 43844
    wave = speech.wave()
    times = np.arange(int(len(wave) / 16000 * rate)) / rate
    voice = np.interp(times, np.arange(len(wave)) / 16000, wave)
    generator, t, found = np.random.default_rng(0), np.arange(length) / rate, []
    for i, start in enumerate(range(0, len(voice) - length, length)):
        chord = np.zeros(length)
        for _ in range(6):
            pitch, begins = 440 * 2 ** ((generator.integers(40, 84) - 69) / 12), generator.uniform(0, 1.5)
            after = np.clip(t - begins, 0, None)
            waves = sum(np.sin(2 * np.pi * pitch * k * after) / k**1.5 for k in range(1, 7))
            chord += 0.15 * waves * np.exp(-2 * after) * (t > begins)
        if (i % 2 == 0) == (part == "given"):
            mixed = (0.5 * voice[start : start + length] + chord).astype(np.float32)
            found.append({"serving_default_input_2:0": mixed[None, :, None]})
    return found


def _voices(name: str, part: Part) -> list[Feeds]:
    """Windows of 80 logarithmic spectra of 40 bands."""
    bands = speech.log_bands(40)
    half = bands[: len(bands) // 2] if part == "given" else bands[len(bands) // 2 :]
    return [{"mel_window": half[None, start : start + 80]} for start in range(0, len(half) - 80, 20)]


# ---- answers -----------------------------------------------------------------------------------------------------


def _percent(same: Sequence[Any] | Array) -> float:
    return 100 * float(np.mean(np.asarray(same, np.float64)))


def _neighbours(wanted: list[Array], got: list[Array]) -> float:
    """Of vectors, or of the means over tokens: whose nearest neighbour stays."""
    nearest = []
    for outputs in (wanted, got):
        vectors = np.stack([one.reshape(-1, one.shape[-1]).mean(0, dtype=np.float64) for one in outputs])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        products = vectors @ vectors.T
        np.fill_diagonal(products, -2)
        nearest.append(products.argmax(1))
    return _percent(nearest[0] == nearest[1])


def _classes(wanted: list[Array], got: list[Array]) -> float:
    return _percent([np.array_equal(a.argmax(-1), b.argmax(-1)) for a, b in zip(wanted, got, strict=True)])


def _read(wanted: list[Array], got: list[Array]) -> float:
    """Lines whose likeliest path reads the same: repeats are one letter, class 0 is none."""

    def text(output: Array) -> list[int]:
        path = output[0].argmax(-1)
        return [int(c) for i, c in enumerate(path) if c and (i == 0 or c != path[i - 1])]

    return _percent([text(a) == text(b) for a, b in zip(wanted, got, strict=True)])


def _found(wanted: list[Array], got: list[Array]) -> float:
    """Images in which the same classes are found."""

    def classes(output: Array) -> set[int]:
        return set(np.flatnonzero(output[0, 4:].max(1) > 0.25).tolist())

    return _percent([classes(a) == classes(b) for a, b in zip(wanted, got, strict=True)])


def _overlap(level: float) -> Callable[[list[Array], list[Array]], float]:
    """What is above a level in both, of what is in one."""

    def share(wanted: list[Array], got: list[Array]) -> float:
        pairs = [(a > level, b > level) for a, b in zip(wanted, got, strict=True)]
        both, one = (sum(int(how(a, b).sum()) for a, b in pairs) for how in (np.logical_and, np.logical_or))
        return 100 * both / max(1, one)

    return share


_WEIGHTS = "all-MiniLM-L6-v2"
_NEIGHBOURS = "nearest neighbours"
_SENTENCES = f"{_TEXTS} sentences"

DEPLOYED = {
    ENCODER: Deployed("sentence encoder", _SENTENCES, _ids, _NEIGHBOURS, _neighbours, "461", texts=True),
    _WEIGHTS: Deployed("sentence encoder", _SENTENCES, _ids, _NEIGHBOURS, _neighbours, texts=True),
    "all-MiniLM-L6-v2-int8": Deployed("the same, int8 weights", _SENTENCES, _ids, _NEIGHBOURS, _neighbours, texts=True),
    "ppocrv5_rec": Deployed("reader of lines", f"{_LINES} lines", _reader, "lines read alike", _read),
    "ppocrv5_det": Deployed("finder of lines", f"{_IMAGES // 2} images", _pages, "overlap of pixels", _overlap(0.3)),
    "ppocrv5_cls": Deployed("which way up", f"{_LINES} lines", _turned, "classes", _classes),
    "nudenet-320n": Deployed("detector, YOLOv8n", f"{_IMAGES} faces", _faces, "classes found", _found),
    "basic-pitch": Deployed("notes of music", "14 clips", _music, "overlap of notes", _overlap(0.3)),
    "chars2vec": Deployed("word encoder, LSTM", f"{_WORDS} words", _words, _NEIGHBOURS, _neighbours),
    "voicefilter-embedder": Deployed("speaker encoder, int8", "145 windows", _voices, _NEIGHBOURS, _neighbours),
}  # fmt: skip
"""By name; a name is a key of `packaged`."""
