"""Metrics of embeddings and of language models, against their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax
from sklearn.metrics.pairwise import cosine_similarity

from onnxopt.data import Array, Batch
from onnxopt.errors import OnnxoptError
from onnxopt.metrics import open_metric
from onnxopt.search.scores import Scores

VOCABULARY, WIDTH = 11, 6


def feeds(rng: np.random.Generator, lengths: list[int]) -> dict[str, Array]:
    """Ids of texts of these lengths, padded on the right."""
    tokens = max(lengths)
    mask = (np.arange(tokens) < np.array(lengths)[:, None]).astype(np.int64)
    return {"input_ids": rng.integers(0, VOCABULARY, mask.shape) * mask, "attention_mask": mask}


def measured(name: str, batches: list[tuple[Array, Array, dict[str, Array]]]) -> Scores:
    """The metric over batches of a model's output, the original's, and the inputs."""
    scores = Scores(open_metric(name))
    for got, wanted, inputs in batches:
        scores.add([got], [wanted], Batch(inputs))
    return scores


def drawn(seed: int, sizes: list[list[int]], width: int, noise: float) -> list[tuple[Array, Array, dict[str, Array]]]:
    """Batches of texts of these lengths, and outputs `[samples, tokens, width]` of two models."""
    rng = np.random.default_rng(seed)
    batches = []
    for lengths in sizes:
        inputs = feeds(rng, lengths)
        wanted = rng.standard_normal((*inputs["input_ids"].shape, width)).astype(np.float32)
        batches.append((wanted + np.float32(noise) * rng.standard_normal(wanted.shape, np.float32), wanted, inputs))
    return batches


def pooled(batches: list[tuple[Array, Array, dict[str, Array]]], which: int) -> Array:
    """The mean over the tokens of each sample, `[samples, width]`."""
    kept = [(batch[which], batch[2]["attention_mask"].sum(1)) for batch in batches]
    return np.array([output[i, :count].mean(0) for output, counts in kept for i, count in enumerate(counts)])


SIZES = st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=5), min_size=2, max_size=6)


@given(st.integers(0, 2**32), SIZES)
def test_cosine_and_retrieval_of_what_the_mask_leaves(seed: int, sizes: list[list[int]]) -> None:
    batches = drawn(seed, sizes, WIDTH, 0.7)
    got, wanted = pooled(batches, 0), pooled(batches, 1)
    cosines = 100 * np.diag(cosine_similarity(got, wanted))
    assert measured("cosine", batches).value() == pytest.approx(cosines.mean(), rel=1e-4)
    alike = [cosine_similarity(vectors) - 3 * np.eye(len(vectors)) for vectors in (got, wanted)]
    same = 100 * (alike[0].argmax(1) == alike[1].argmax(1)).mean()
    assert measured("retrieval", batches).value() == pytest.approx(same)
    padded = [(np.where(f["attention_mask"][:, :, None], g, np.nan), w, f) for g, w, f in batches]
    assert measured("cosine", padded).value() == pytest.approx(cosines.mean(), rel=1e-4), "padding says nothing"


@given(st.integers(0, 2**32), SIZES)
def test_language_models_by_their_definitions(seed: int, sizes: list[list[int]]) -> None:
    batches = drawn(seed, sizes, VOCABULARY, 0.7)
    surprises, agreeing = [], []
    for got, wanted, inputs in batches:
        for i, mask in enumerate(inputs["attention_mask"]):
            count = int(mask.sum())
            following = inputs["input_ids"][i, 1:count]
            surprises += [-row[one] for row, one in zip(log_softmax(got[i], 1), following, strict=False)]
            agreeing += (got[i].argmax(1) == wanted[i].argmax(1))[:count].tolist()
    assert measured("perplexity", batches).value() == pytest.approx(np.exp(np.mean(surprises)), rel=1e-5)
    assert measured("next-token", batches).value() == pytest.approx(100 * np.mean(agreeing))


@pytest.mark.parametrize(
    ("name", "width", "best"),
    [("cosine", WIDTH, 100), ("retrieval", WIDTH, 100), ("next-token", VOCABULARY, 100), ("perplexity", VOCABULARY, 0)],
)
def test_the_original_loses_nothing_and_nan_never_passes(name: str, width: int, best: float) -> None:
    batches = drawn(0, [[5, 4, 3, 2, 2], [6, 2, 3, 4, 5]], width, 0.5)
    metric = open_metric(name)
    before = measured(name, [(wanted, wanted, inputs) for _, wanted, inputs in batches])
    assert not best or before.value() == pytest.approx(best)
    again = measured(name, [(wanted.copy(), wanted, inputs) for _, wanted, inputs in batches])
    assert metric.drop(before.value(), again.value()) == 0
    broken = [(wanted.copy(), wanted, inputs) for _, wanted, inputs in batches]
    broken[0][0][2, :2] = np.nan
    assert metric.drop(before.value(), measured(name, broken).value()) >= 4


@pytest.mark.parametrize(
    ("name", "width"), [("cosine", WIDTH), ("retrieval", WIDTH), ("next-token", VOCABULARY), ("perplexity", VOCABULARY)]
)
def test_the_standard_error_is_the_spread_of_draws(name: str, width: int) -> None:
    """Of the drop on 120 texts, over 40 draws, texts of very different lengths."""
    found = []
    for seed in range(40):
        rng = np.random.default_rng(1000 + seed)
        sizes = rng.integers(2, 30, (12, 10)).tolist()
        batches = drawn(seed, sizes, width, 0.4)
        before = measured(name, [(wanted, wanted, inputs) for _, wanted, inputs in batches])
        drop = before.drop_to(measured(name, batches), 1.0)
        found.append((drop.drop, drop.spread))
    drops, spreads = np.array(found).T
    assert spreads.mean() == pytest.approx(drops.std(ddof=1), rel=0.35)


def test_equal_texts_are_each_other_s_neighbours_whichever_is_found() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((10, 64))
    wanted = np.concatenate([vectors + 1e-6 * rng.standard_normal(vectors.shape) for _ in range(3)])  # up to rounding
    got = wanted + 1e-4 * np.random.default_rng(1).standard_normal(wanted.shape)
    both = [(x.astype(np.float32), wanted.astype(np.float32), {}) for x in (got, got[::-1].copy())]
    assert measured("retrieval", both[:1]).value() == 100
    assert measured("retrieval", both[1:]).value() == 100, "as each is mirrored, so are the neighbours"


def test_zeros_have_no_direction() -> None:
    wanted = np.eye(4, WIDTH, dtype=np.float32)
    got = wanted.copy()
    got[0] = 0
    assert measured("cosine", [(got, wanted, {})]).value() == 75
    assert measured("cosine", [(got, got, {})]).value() == 100


def test_vectors_are_found_in_other_shapes() -> None:
    rng = np.random.default_rng(0)
    wanted = rng.standard_normal((8, WIDTH)).astype(np.float32)
    got = wanted + rng.standard_normal(wanted.shape).astype(np.float32)
    value = measured("cosine", [(got, wanted, {})]).value()
    inputs = feeds(rng, [3] * 8)
    for shape in ((8, WIDTH, 1, 1), (8, 1, WIDTH)):
        assert measured("cosine", [(got.reshape(shape), wanted.reshape(shape), inputs)]).value() == value
    repeated = [np.repeat(x[:, None], 5, 1) for x in (got, wanted)]
    assert measured("cosine", [(*repeated, {})]).value() == pytest.approx(value), "all tokens without a mask"


IDS = {"input_ids": np.ones((2, 3), np.int64)}


@pytest.mark.parametrize(
    ("name", "output", "inputs", "message"),
    [
        ("cosine", np.zeros((2, 3), np.int64), {}, r"cosine: needs an output of embeddings .*int64 \[2, 3\]"),
        ("retrieval", np.zeros((2, 3, 8, 8), np.float32), {}, "retrieval: needs an output of embeddings"),
        ("cosine", np.zeros((2, 4, 5), np.float32), {**IDS, "attention_mask": np.ones((2, 3), np.int64)},
         r"is float32 \[2, 4, 5\], expected one vector for each token of the attention mask \[2, 3\]"),
        ("retrieval", np.ones((1, 3), np.float32), {}, "needs two samples or more, found 1"),
        ("next-token", np.zeros((2, 3), np.float32), IDS, r"takes input_ids \[2, 3\] and gives float32 \[2, 3\]"),
        ("perplexity", np.zeros((2, 4, 5), np.float32), IDS, "needs an input of token ids"),
        ("perplexity", np.zeros((2, 3, 1), np.float32), IDS, "needs an input of token ids"),
        ("perplexity", np.zeros((2, 3, 9), np.float32), {}, "the model takes nothing"),
        ("perplexity", np.zeros((2, 1, 9), np.float32), {"input_ids": np.ones((2, 1), np.int64)}, "no text has two"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_sentence(name: str, output: Array, inputs: dict[str, Any], message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught:
        measured(name, [(output, output, inputs)]).value()
    assert "\n" not in str(caught.value)
