"""The demo: a model before and after `onnxopt optimize`, in stock ONNX Runtime on the digits' test part.

python tools/demo.py models/digits.onnx build/demo/digits.onnx
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

import onnxopt
from train_digits import split


def logits(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The model's output for images [n, 1, 8, 8], in ONNX Runtime with onnxopt's library registered."""
    options = onnxruntime.SessionOptions()
    onnxopt.register(options)  # all that an application adds
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"input": images})[0])


def main() -> None:
    """Prints size, accuracy and agreement of both models."""
    parser = argparse.ArgumentParser(description="Compares a digits model with its compressed form.")
    parser.add_argument("original", type=Path)
    parser.add_argument("compressed", type=Path)
    paths = parser.parse_args()
    _, _, images, labels = split()
    wanted, got = logits(paths.original, images), logits(paths.compressed, images)
    before, after = paths.original.stat().st_size, paths.compressed.stat().st_size

    table = Table(title=f"digits: {len(labels)} test images, ONNX Runtime {onnxruntime.__version__}")
    table.add_column("")
    table.add_column("original", justify="right")
    table.add_column("compressed", justify="right")
    table.add_row("file", str(paths.original), str(paths.compressed))
    table.add_row("bytes", f"{before:,}", f"{after:,}  ({before / after:.2f}x smaller)")
    accuracy = [f"{100 * (scores.argmax(1) == labels).mean():.2f} %" for scores in (wanted, got)]
    table.add_row("accuracy", *accuracy)
    same = int((wanted.argmax(1) == got.argmax(1)).sum())
    table.add_row("same digit", "", f"{same} of {len(labels)}")
    table.add_row("error of the outputs", "", f"{100 * np.linalg.norm(got - wanted) / np.linalg.norm(wanted):.1f} %")
    Console().print(table)


if __name__ == "__main__":
    main()
