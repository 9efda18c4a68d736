"""A language model with its cache: onnxopt beside the runtime's own quantizers.

Texts are windows of documentation: NumPy's for compressing, of which each second document is kept to measure on.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

import onnxopt
from common import llama, realdata
from common.kept import ONNXOPT, RUNTIME, fresh
from common.packaged import documents, packaged
from common.pages import machine, markdown
from onnxopt import Contract
from onnxopt.spec.effort import Effort
from tables import Scope, Table
from tables.transformers import OTHERS

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

MODEL = "SmolLM2-135M"
_TOKENS, _WINDOWS, _FILLED = 128, 32, 8
"""Of a window; windows of each part, and how many of them are halved: the first half fills the cache."""
_BLOCKS = "MatMulNBits, 4 bits"
_BOUNDS = (0.007, 0.05, 0.1)
"""On the noise over signal: less than 8 bits make, the default, and twice that."""


@cache
def _source() -> llama.File:
    return llama.File(packaged(MODEL))


def path_of(name: str) -> Path:
    """The model's file, which is written once, in float32."""
    file = packaged(name).with_suffix(".onnx")
    if not file.is_file():
        unfinished = file.with_suffix(".part")
        onnx.save(llama.llama(_source()), unfinished)
        unfinished.rename(file)
    return file


@cache
def windows(kept: bool) -> Array:
    """Tokens [windows, tokens] of one part."""
    tokenizer = _source().tokenizer()
    found = list[list[int]]()
    for text in documents()[int(kept) :: 2]:
        ids = tokenizer.encode(text).ids
        if len(ids) >= _TOKENS:
            found.append(ids[:_TOKENS])
    return np.array(found[:_WINDOWS])


def feeds(tokens: Array, past: Sequence[Array]) -> Feeds:
    """What the model takes: tokens [batch, new], and caches [batch, heads, past, head] in its order."""
    batch, new = tokens.shape
    filled = past[0].shape[2]
    names = [f"past_key_values.{i // 2}.{('key', 'value')[i % 2]}" for i in range(len(past))]
    return {
        "input_ids": tokens,
        "attention_mask": np.ones((batch, filled + new), np.int64),
        "position_ids": np.tile(np.arange(filled, filled + new), (batch, 1)),
        **dict(zip(names, past, strict=True)),
    }


def empty(shape: llama.Shape, batch: int) -> list[Array]:
    """Caches before the first token."""
    return [np.zeros((batch, shape.shared, 0, shape.head), np.float32)] * (2 * shape.layers)


def inputs(kept: bool, folder: Path) -> Callable[[], Iterator[Feeds]]:
    """Windows with an empty cache; then second halves, with the cache of the first, which the plain model has made."""
    shape, tokens, half = _source().shape, windows(kept), _TOKENS // 2
    session = realdata.plain_session(path_of(MODEL))
    names = [one.name for one in session.get_outputs()[1:]]
    files = list[Path]()
    for i in range(_FILLED):
        file = folder / f"cache{i}.npy"
        np.save(file, np.stack(session.run(names, feeds(tokens[i : i + 1, :half], empty(shape, 1)))))
        files.append(file)

    def every() -> Iterator[Feeds]:
        for i in range(len(tokens)):
            yield feeds(tokens[i : i + 1], empty(shape, 1))
        for i, file in enumerate(files):
            yield feeds(tokens[i : i + 1, half:], list(np.load(file, mmap_mode="r")))

    return every


@dataclass(frozen=True, slots=True)
class Cell:
    """The model in the hands of a tool."""

    size: int
    perplexity: float
    """On the windows that are kept."""
    noise: float
    """Of the logits, over signal."""
    same: float
    """Percent of tokens after which the likeliest next one stays."""
    same_filled: float
    """Percent of these where the cache is filled."""
    seconds: float = 0.0
    """CPU seconds."""
    memory: int = 0
    """Peak, in bytes."""


def _surprise(logits: Array, tokens: Array) -> float:
    """The mean of -log p at the next token, over logits [1, new, words]."""
    shifted = logits[0, :-1].astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(shifted, tokens[0, 1:, None], axis=-1)[:, 0]
    return float((np.log(np.exp(shifted).sum(axis=-1)) - chosen).mean())


def evaluated(file: Path) -> Cell:
    """A file on the windows that are kept."""
    with tempfile.TemporaryDirectory() as folder:
        every = inputs(True, Path(folder))
        plain, other = realdata.plain_session(path_of(MODEL)), realdata.registered_session(file)
        surprise, noise, signal, same = [], 0.0, 0.0, dict[bool, list[float]]({False: [], True: []})
        for one in every():
            wanted, got = (session.run(["logits"], one)[0] for session in (plain, other))
            filled = one["past_key_values.0.key"].shape[2] > 0
            if not filled:
                surprise.append(_surprise(got, one["input_ids"]))
            noise += float(np.square(got - wanted, dtype=np.float64).sum())
            signal += float(np.square(wanted, dtype=np.float64).sum())
            same[filled].append(100 * float((got.argmax(-1) == wanted.argmax(-1)).mean()))
        return Cell(
            file.stat().st_size,
            float(np.exp(np.mean(surprise))),
            float(np.sqrt(noise / signal)),
            float(np.mean(same[False])),
            float(np.mean(same[True])),
        )


def other(tool: str) -> Cell:
    """The file of one of the runtime's quantizers."""
    logging.disable(logging.WARNING)  # a line for each node
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        OTHERS[tool](path_of(MODEL), file)
        return evaluated(file)


def coded(tool: str) -> Cell:
    """The same, whose integers onnxopt codes without loss."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        file, small = Path(folder) / "other.onnx", Path(folder) / "small.onnx"
        OTHERS[tool](path_of(MODEL), file)
        started = time.process_time()
        done = onnxopt.optimize(file, small, lossless=True)
        seconds = time.process_time() - started
        return replace(evaluated(small), seconds=seconds, memory=done.peak_memory or 0)


def write_feeds(folder: Path) -> None:
    """Writes what the model is compressed on to files."""
    for index, one in enumerate(inputs(False, folder)()):
        np.savez(folder / f"feeds{index:03}.npz", allow_pickle=False, **one)


def _read_feeds(folder: Path) -> Iterator[Feeds]:
    for file in sorted(folder.glob("feeds*.npz")):
        yield dict(np.load(file))


def ours(**asked: Any) -> Cell:
    """What onnxopt makes of it on texts."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "small.onnx"
        fresh(write_feeds, Path(folder))  # elsewhere, as the memory of this process is measured
        data, started = partial(_read_feeds, Path(folder)), time.process_time()
        done = onnxopt.optimize(path_of(MODEL), file, Contract(**asked), data, effort=Effort.FAST)
        seconds = time.process_time() - started
        return replace(evaluated(file), seconds=seconds, memory=done.peak_memory or 0)


def measure(scope: Scope) -> dict[str, Cell]:
    """By tool."""
    found = {"original": RUNTIME.once(evaluated, path_of(MODEL))}
    found |= {tool: RUNTIME.once(other, tool) for tool in OTHERS}
    found[f"{_BLOCKS}, then `onnxopt --lossless`"] = ONNXOPT.once(coded, _BLOCKS)
    for bound in _BOUNDS:
        found[f"**onnxopt `--data --error {bound}`**"] = ONNXOPT.once(ours, error=bound)
    return found


def render(cells: dict[str, Cell]) -> str:
    """A line for each tool."""
    source = cells["original"].size
    lines = [
        [tool, f"{one.size / 1e6:.1f}", f"{source / one.size:.2f}x", f"{one.perplexity:.2f}", f"{one.noise:.3f}",
         f"{one.same:.1f}", f"{one.same_filled:.1f}", f"{one.seconds:.0f}" if one.seconds else "",
         f"{one.memory / 1e6:.0f}" if one.memory else ""]
        for tool, one in cells.items()
    ]  # fmt: skip
    columns = ["file", "MB", "ratio", "perplexity", "noise", "next token stays, %", "with a filled cache, %", "CPU s",
               "peak MB"]  # fmt: skip
    return f"{markdown(columns, 'l' + 'r' * 8, lines)}\n\nOn {machine()}, with other work beside it."


TABLES = (Table("decoder", "docs/text.md", 30, measure, render),)
