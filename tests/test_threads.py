"""Bytes do not depend on the number of threads, of BLAS or of ONNX Runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp

from common import realdata
from onnxopt.data import session_options

SCRIPT = """
import os
import sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, range(os.cpu_count()))  # a process of the tests has one core
import onnxruntime
from threadpoolctl import threadpool_info, threadpool_limits

class Options(onnxruntime.SessionOptions):
    def __init__(self):
        super().__init__()
        self.intra_op_num_threads = int(sys.argv[4])

def session(model, sess_options=None, **options):
    return plain(model, sess_options or Options(), **options)

plain, onnxruntime.InferenceSession, onnxruntime.SessionOptions = onnxruntime.InferenceSession, session, Options
import scipy.linalg
from onnxopt import optimize
assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {int(sys.argv[3])}
optimize(sys.argv[1], sys.argv[2], data=sys.argv[5] or None, effort=sys.argv[6])
"""


def written(model: Path, output: Path, blas: int, runtime: int, data: Path | None, effort: str = "fast") -> bytes:
    """The file that is made with so many threads."""
    asked = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(blas))  # a cluster may have set the second
    environment = {**os.environ, **asked}
    words = [sys.executable, "-c", SCRIPT, model, output, str(blas), str(runtime), str(data or ""), effort]
    subprocess.run(words, cwd=output.parent, env=environment, check=True)
    return output.read_bytes()


@pytest.mark.slow
def test_a_model_as_wide_as_blas_shares_work(tmp_path: Path) -> None:
    onnx.save(mlp(400), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((400, 400), np.float32))
    made = {
        written(tmp_path / "model.onnx", tmp_path / "small.onnx", *threads, tmp_path / "x.npy")
        for threads in ((1, 1), (2, 3))
    }
    assert len(made) == 1


@pytest.mark.slow
@pytest.mark.skipif(not realdata.MODELS.is_dir(), reason=f"no models in {realdata.MODELS}; ONNXOPT_DATA names them")
@pytest.mark.parametrize(("name", "images"), [("resnet20", 100), ("resnet32", 0)])
def test_real_models(name: str, images: int, tmp_path: Path) -> None:
    data = None
    if images:
        task = realdata.TASKS[name]
        data = tmp_path / "x.npy"
        np.save(data, task.prepare(realdata.cifar10("train").images[:images]))
    model = realdata.MODELS / f"{name}.onnx"
    assert len({written(model, tmp_path / "small.onnx", *both, data) for both in ((1, 1), (2, 2))}) == 1


def test_sessions_take_the_cores_that_the_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    for cores, threads in (({0}, 1), ({0, 2}, 2), ({0, 1, 2, 3}, 0)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: cores, raising=False)
        assert session_options().intra_op_num_threads == threads
