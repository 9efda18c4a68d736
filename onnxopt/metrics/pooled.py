"""Embeddings: one vector a sample."""

from __future__ import annotations

import numpy as np

from onnxopt.data import Array, Batch, Part, parts_of
from onnxopt.errors import OnnxoptError
from onnxopt.metrics.base import Outputs
from onnxopt.metrics.class_scores import is_float, shapes


def embeddings(outputs: Outputs, reference: Outputs, batch: Batch, metric: str) -> tuple[Array, Array]:
    """The vectors ``[samples, width]`` of a model and of the original.

    They are in the first float output ``[samples, width]``, dimensions of 1 aside, or ``[samples, tokens, width]``; in
    that case a vector is the mean over the tokens that the model's attention mask leaves, or over all without a mask.

    Raises OnnxoptError, which names the `metric`, where there is no such output, or the mask is not one of its tokens.
    """
    i = find_vectors(reference)
    if i is None:
        raise OnnxoptError(f"{metric}: needs an output of embeddings [samples, width] or [samples, tokens, width], the "
                           f"model has {shapes(reference)}; --metric mse takes any")  # fmt: skip
    if np.shape(outputs[i]) != np.shape(reference[i]):
        raise OnnxoptError(f"{metric}: the original gives {shapes([reference[i]])}, the model {shapes([outputs[i]])}")
    mask = None if _one_each(reference[i]) else attention_mask(batch)
    if mask is not None and mask.shape != reference[i].shape[:2]:
        raise OnnxoptError(f"{metric}: the output of embeddings is {shapes([reference[i]])}, expected one vector for "
                           f"each token of the attention mask {list(mask.shape)}; --metric mse takes any")  # fmt: skip
    return _pooled(outputs[i], mask), _pooled(reference[i], mask)


def find_vectors(outputs: Outputs) -> int | None:
    """Index of the first output that may hold embeddings; None where there is none."""
    return next((i for i, output in enumerate(outputs) if _holds_vectors(output)), None)


def attention_mask(batch: Batch) -> Array | None:
    """Which tokens count, ``[samples, tokens]`` of truth values; None where the model has no such input."""
    name = parts_of({name: array.dtype for name, array in batch.feeds.items()}).get(Part.MASK)
    return None if name is None else batch.feeds[name] != 0


def _holds_vectors(output: object) -> bool:
    return isinstance(output, np.ndarray) and is_float(output) and (output.ndim == 3 or _one_each(output))


def _one_each(output: Array) -> bool:
    """Whether an output holds a single vector for each sample."""
    return output.ndim > 1 and bool(np.prod(output.shape[1:]) == max(output.shape[1:]) > 1)


def _pooled(output: Array, mask: Array | None) -> Array:
    """One vector a sample, in 64 bits."""
    if _one_each(output):
        return output.reshape(len(output), -1).astype(np.float64)
    if mask is None:
        return np.asarray(output.mean(1, dtype=np.float64))
    kept = np.where(mask[:, :, None], output, 0).sum(1, dtype=np.float64)  # whatever padding holds, NaN included
    return np.asarray(kept / np.maximum(mask.sum(1), 1)[:, None])
