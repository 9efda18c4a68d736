"""Compares a compressed file with the original at values that are not outputs of the model."""

from __future__ import annotations

from pathlib import Path

from onnxopt.graph import observe
from onnxopt.runtime.archive import decompress
from onnxopt.search.evaluator import Comparison, Evaluator
from onnxopt.search.original import with_hidden


def compare_hidden(evaluator: Evaluator, path: Path) -> Comparison:
    """Compares the model in the file at `path`, decompressed, with the original's hidden values.

    Where clean-ups have left other values to observe than the original has, only outputs are compared.
    """
    model = decompress(path)
    observed = observe(model)
    hidden = observed.hidden if len(observed.hidden) == evaluator.hidden else ()
    return evaluator.compare(with_hidden(model, observed), hidden)
