"""One model divided over the workers of a cluster: the same bytes as in one process, whatever dies."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from builders import mlp
from commanding import refused, run

import onnxopt
from onnxopt import Contract, runtime
from onnxopt.data import chosen_session
from onnxopt.pool import Pool, Threads
from onnxopt.pool.cluster import Cluster
from onnxopt.pool.worker import Answer

pytestmark = pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra cluster")


class Done:
    """The future of a task that has been carried out."""

    def __init__(self, answer: Any) -> None:
        self.result = lambda: answer

    def done(self) -> bool:
        return True


class Client:
    """Dask's, without Dask: tasks are pickled, and carried out at once in this process."""

    def __init__(self, places: int) -> None:
        self.nthreads = lambda: {"one": places}
        self.cancel = list

    def submit(self, do: Callable[..., Any], *arguments: Any, pure: bool) -> Done:
        return Done(do(*arguments))


@pytest.fixture
def pretended(tmp_path: Path) -> Callable[[int], Cluster]:
    """Makes clusters of so many places."""

    def made(places: int) -> Cluster:
        pool = Cluster("tcp://nowhere:1")
        pool._client, pool._folder = Client(places), tmp_path
        return pool

    return made


def optimized(model: Path, pool: Pool, **options: Any) -> bytes:
    output = model.with_name("small.onnx")
    onnxopt.optimize(model, output, pool=pool, effort="fast", **options)
    return output.read_bytes()


@pytest.mark.parametrize("given", [False, True])
def test_bytes_are_those_of_threads(given: bool, pretended: Callable[[int], Cluster], tmp_path: Path) -> None:
    model, options = tmp_path / "model.onnx", dict[str, Any]()
    onnx.save(mlp(24), model)
    if given:
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "x.npz", x=rng.standard_normal((900, 24), np.float32), labels=rng.integers(0, 10, 900))
        options = {"data": tmp_path / "x.npz", "contract": Contract(max_drop=5.0)}
    wanted = optimized(model, Threads(), **options)
    for places in (1, 3):
        pool = pretended(places)
        assert optimized(model, pool, **options) == wanted
        assert pool.moved.tasks
        assert pool.moved.there > model.stat().st_size
        assert not list(tmp_path.glob("*.pickle"))  # nobody refers to what was shared


def test_factor_chains_are_weighed_on_workers(pretended: Callable[[int], Cluster], tmp_path: Path) -> None:
    """Where no time counts."""
    model, rng = tmp_path / "model.onnx", np.random.default_rng(0)
    made = mlp(48)
    first = made.graph.initializer[0]
    low = rng.standard_normal((first.dims[0], 6)) @ rng.standard_normal((6, first.dims[1]))
    first.CopyFrom(onnx.numpy_helper.from_array(low.astype(np.float32), first.name))
    onnx.save(made, model)
    np.save(tmp_path / "x.npy", rng.standard_normal((300, 48), np.float32))
    here, pool = optimized(model, Threads(), data=tmp_path / "x.npy", goal="size"), pretended(2)
    items = list[str]()
    submitted = pool._submitted
    pool._submitted = lambda do, item: (items.append(str(do)), submitted(do, item))[1]  # type: ignore[method-assign]
    assert optimized(model, pool, data=tmp_path / "x.npy", goal="size") == here
    assert any("_candidates" in one for one in items)


def test_folds_tell_as_much_of_what_workers_send(pretended: Callable[[int], Cluster], tmp_path: Path) -> None:
    """The spread of a drop by the jackknife, of every trial."""
    model = tmp_path / "model.onnx"
    onnx.save(mlp(24), model)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((900, 24), np.float32))
    here, there = (
        onnxopt.optimize(model, tmp_path / "small.onnx", Contract(max_drop=0.02, metric="mse"), tmp_path / "x.npy",
                         pool=pool, effort="fast").trials
        for pool in (Threads(), pretended(3))
    )  # fmt: skip
    assert here == there
    assert min(trial.spread for trial in here) > 0


def test_data_is_read_where_it_lies_and_weights_travel_once(
    pretended: Callable[[int], Cluster], tmp_path: Path
) -> None:
    model, x = tmp_path / "model.onnx", np.random.default_rng(0).standard_normal((20_000, 128), np.float32)
    onnx.save(mlp(128), model)
    np.save(tmp_path / "x.npy", x)
    pool = pretended(8)
    optimized(model, pool, data=tmp_path / "x.npy")
    size = model.stat().st_size
    assert pool.moved.tasks > 20
    assert pool.moved.there < 6 * size < x.nbytes / 10  # few values hold weights, and each is read once


def test_arrays_are_sent_without_a_copy() -> None:
    found = {"none": np.zeros((2, 0), np.float32), "turned": np.arange(6.0).reshape(2, 3).T}
    parts = Answer(found, False, 3).sent()
    assert np.shares_memory(parts[2], found["turned"])
    answer = Answer.received(parts)
    assert np.shares_memory(answer.found["turned"], found["turned"])
    assert (answer.read, answer.failed, answer.size) == (3, False, sum(map(len, parts)))
    for name, array in found.items():
        np.testing.assert_array_equal(answer.found[name], array, strict=True)


def test_a_worker_without_a_provider_says_so(
    pretended: Callable[[int], Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one sentence, where the command was given."""
    cpu, said = ["CPUExecutionProvider"], list[str]()
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["FakeExecutionProvider", *cpu])
    models = [mlp(24).SerializeToString()] * 3
    with runtime.providers(["fake"], said.append), pytest.warns(UserWarning):
        assert list(pretended(2).map(ran_on, models)) == [cpu] * 3
    (sentence,) = said
    assert "FakeExecutionProvider cannot be used" in sentence


def ran_on(model: bytes) -> list[str]:
    return chosen_session(model).get_providers()


def killing(marks: Path, do: Callable[[Any], Any], item: Any) -> Any:
    """Ends the worker at the first item of each kind."""
    kind: Any = do
    while hasattr(kind, "func"):  # a partial function, of another one perhaps
        kind = kind.args[0] if kind.args and kind.func.__name__ == "_each" else kind.func
    with suppress(FileExistsError):
        (marks / kind.__name__).touch(exist_ok=False)
        os.kill(os.getpid(), signal.SIGKILL)
    return do(item)


class Deadly(Cluster):
    """A cluster whose workers die."""

    marks: Path

    def _submitted(self, do: Callable[[Any], Any], item: Any) -> Any:
        return super()._submitted(partial(killing, self.marks, do), item)


@pytest.mark.slow
def test_workers_that_die_change_nothing(tmp_path: Path) -> None:
    model, options = tmp_path / "model.onnx", {"data": tmp_path / "x.npy", "goal": "size"}
    onnx.save(mlp(24), model)
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((300, 24), np.float32))
    wanted = optimized(model, Threads(), **options)
    with Deadly("local:2") as pool:
        pool.marks = tmp_path / "marks"
        pool.marks.mkdir()
        assert optimized(model, pool, **options) == wanted
    kinds = {path.name for path in pool.marks.iterdir()}
    assert kinds == {"_summed", "_stored", "_powers", "_treated_alone", "_answered", "_candidates"}


HOOK = """
import os
from contextlib import suppress
from pathlib import Path

import numpy as np

def batches():
    with suppress(ImportError, ValueError, OSError):
        from distributed import get_worker
        get_worker()
        if list(Path(os.environ["XDG_CACHE_HOME"]).rglob("*-gain.npz")):
            os.kill(int(Path("scheduler.pid").read_text()), 9)
    for index in range(40):
        yield np.random.default_rng(index).standard_normal((8, 24), np.float32)
"""


@pytest.mark.slow
def test_a_scheduler_that_goes_away_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    address = request.getfixturevalue("scheduler")
    onnx.save(mlp(24), tmp_path / "model.onnx")
    (tmp_path / "feeds.py").write_text(HOOK)
    words = ("optimize", "model.onnx", "-o", "small.onnx", "--data", "feeds:batches")
    refused(run(*words, "--cluster", address, cwd=tmp_path), "the scheduler is gone; run again: what is done is kept")
    assert not (tmp_path / "small.onnx").exists()
    assert list((tmp_path / "cache").rglob("*-gain.npz"))  # for the next run
    assert run(*words, cwd=tmp_path).returncode == 0
    resumed = (tmp_path / "small.onnx").read_bytes()
    assert run(*words, cwd=tmp_path).returncode == 0
    assert (tmp_path / "small.onnx").read_bytes() == resumed
