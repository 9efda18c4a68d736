"""A large batch is run in parts where the model answers for each sample alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from differences import build, node, session

from onnxopt.data import Array, Batch, Data, Pending
from onnxopt.data.stream import joined
from onnxopt.pool import Threads
from onnxopt.search import answers
from onnxopt.search.answers import Question, takes_parts
from onnxopt.search.evaluator import Evaluator
from onnxopt.search.worst_law import evaluator_of

DOUBLED = [node("Add", ["x", "x"], ["y"])]


class Counting:
    """Doubles, and notes how many samples it is given."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Any]:
        self.sizes.append(len(feeds["x"]))
        return [2 * feeds["x"]]


class Elsewhere(Threads):
    """Threads that pass for other machines."""

    here = False


def one_batch(samples: int) -> Data:
    batch = Batch({"x": np.arange(samples * 4, dtype=np.float32).reshape(samples, 4)})
    return Data("x", lambda: iter([Pending(samples, lambda: batch)]), str)


def test_parts_give_what_the_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_PART", 3 * 4 * 4)
    data, runner = one_batch(8), Counting()
    batch = next(iter(data))
    (found,) = Question(runner, ["y"], data, in_parts=True).asked(Threads())(batch)
    assert runner.sizes == [3, 3, 2] and np.array_equal(found, 2 * batch.feeds["x"])
    (found,) = Question(runner, ["y"], data).asked(Threads())(batch)
    assert runner.sizes == [3, 3, 2, 8] and np.array_equal(found, 2 * batch.feeds["x"])


@pytest.mark.parametrize(
    ("nodes", "shape", "wanted"),
    [
        (DOUBLED, ["n", 4], True),
        (DOUBLED, [8, 4], False),
        (DOUBLED, ["n", "m"], True),
        ([node("ReduceSum", ["x"], ["y"], keepdims=0)], ["n", 4], False),
        ([node("Transpose", ["x"], ["y"])], ["n", 4], False),
    ],
)
def test_a_model_takes_parts_if_one_name_is_the_first_dimension_of_all(
    nodes: list[Any], shape: list[Any], wanted: bool
) -> None:
    assert takes_parts(session(build(nodes, shape))) is wanted


def test_an_evaluator_compares_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "_PART", 3 * 4 * 4)
    evaluator, runner = Evaluator(session(build(DOUBLED, ["n", 4])), one_batch(8)), Counting()
    assert evaluator.compare(runner).error == 0.0 and runner.sizes == [3, 3, 2]
    assert len(evaluator.feeds["x"]) == 3


@pytest.mark.parametrize("laws", [1, 2])
def test_the_same_file_is_compared_once(laws: int) -> None:
    data = joined([one_batch(8)] * laws, "x", 0.1)
    evaluator, runner = evaluator_of(session(build(DOUBLED, ["n", 4])), data), Counting()
    found = [evaluator.compare_file(file, runner) for file in ("a", "a", "b")]
    assert runner.sizes == [8] * 2 * laws
    assert found[0] is found[1] and found[0] == found[2]


def test_what_another_machine_has_run_runs_here() -> None:
    evaluator, runner = Evaluator(session(build(DOUBLED, ["n", 4])), one_batch(8)), Counting()
    evaluator.compare_file("a", runner, Elsewhere())
    evaluator.compare_file("a", runner)
    assert runner.sizes == [8, 8]
