"""`onnxopt batch`: models and their requests in a file; and `--cluster`, which runs them where Dask decides."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
from commanding import Done, refused, run

from onnxopt.pool.cluster import Cluster
from onnxopt.studies.batch import Job, batch

FAKE = (str(Path(__file__).with_name("fake_onnxopt.py")),)
JOBS = """
[defaults]
max-drop = 0.5
data = "train.npz"
custom-ops = ["a.so", "b.so"]

[[job]]
model = "first"
output = "out"

[[job]]
model = "second"
output = "second.out"
data = "other data"
lossless = true
max-drop = 1
"""
slow_with_dask = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("distributed") is None, reason="needs the extra cluster"),
]


@pytest.fixture(autouse=True)
def _fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxopt.cli.many.COMMAND", FAKE)


def jobs(folder: Path, text: str, *words: object) -> Done:
    (folder / "jobs.toml").write_text(text)
    return run("batch", "jobs.toml", *words, cwd=folder)


def test_jobs_share_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Job] = []
    monkeypatch.setattr("onnxopt.cli.batch.run_all", lambda found, *_: made.extend(found))
    (tmp_path / "out").mkdir()
    assert jobs(tmp_path, JOBS).returncode == 0
    shared = ("--custom-ops=a.so", "--custom-ops=b.so")
    assert [(job.model, job.output) for job in made] == [
        (Path("first"), Path("out/first")),
        (Path("second"), Path("second.out")),
    ]
    assert made[0].words == ("--max-drop=0.5", "--data=train.npz", *shared)
    assert made[1].words == ("--max-drop=1", "--data=other data", *shared, "--lossless")
    assert [job.memory for job in made] == [2**29, 0]


def test_several_models_share_the_words_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Job] = []
    monkeypatch.setattr("onnxopt.cli.optimize.run_all", lambda found, *_: made.extend(found))
    (tmp_path / "out").mkdir()
    words = ("--for", "size", "--allow-miss", "--std", "-1,2", "--effort=fast", "--overrides", "rules.toml")
    done = run("optimize", "-v", "a", "--jobs", 2, *words, "--json", "b", "-o", "out", cwd=tmp_path)
    assert done.returncode == 0
    assert [(job.model, job.output) for job in made] == [(Path(name), Path("out", name)) for name in "ab"]
    given = " ".join(made[0].words)
    for word in ("--for size", "--allow-miss", "--std -1,2", "--effort fast", "--overrides rules.toml"):
        given = given.replace(word, "", 1)
    assert not given.strip()


def test_the_table_and_the_exit_code(tmp_path: Path) -> None:
    text = "".join(f'[[job]]\nmodel = "{name}"\noutput = "{name}.out"\n' for name in ("good", "missed"))
    done = jobs(tmp_path, text)
    assert done.returncode == 3
    for words in ("good 8 B 7 B 1.14x met", "missed: missed: is wrong"):
        assert words.split() == [word for word in done.stdout.split() if word in words.split()][: len(words.split())]
    found = [json.loads(line) for line in jobs(tmp_path, text, "--json").stdout.splitlines()]
    assert sorted(one["status"] for one in found) == ["kept", "missed"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("job = 3", "expected a [[job]] for each model"),
        ("job = [3]", "expected a [[job]] for each model"),
        ("[jobs]", "expected a [[job]] for each model"),
        ("[[job]", "is no TOML"),
        ('[[job]]\nmodel = "m"', "job 1: expected the paths model and output"),
        (JOBS + "max_drop = 1", "job 2: there is no option 'max_drop'; there is activations, allow-miss"),
        (JOBS + "check = 'x'", "job 2: there is no option 'check'"),
        (JOBS + "error = true", "job 2: error is True, expected a text or a number"),
        (JOBS + "max-ram = 'much'", "job 2: max-ram is 'much', expected bytes"),
        (JOBS + "allow-miss = 1", "job 2: allow-miss is 1, expected true or false"),
        (JOBS + '[[job]]\nmodel = "x"\noutput = "./out"', "job 3: writes out, and so does job 1"),
    ],
)
def test_a_wrong_file_is_one_sentence(text: str, said: str, tmp_path: Path) -> None:
    refused(jobs(tmp_path, text), "jobs.toml: ", said)
    assert not (tmp_path / "ran.txt").exists()


@pytest.mark.parametrize("address", ["local:0", "local", "host:8786", "tcp://host", "http://host:1"])
def test_an_address_that_is_none(address: str, tmp_path: Path) -> None:
    refused(jobs(tmp_path, JOBS, "--cluster", address), f"--cluster is {address!r}, expected local:N")


def test_dask_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    refused(jobs(tmp_path, JOBS, "--cluster", "local:2"), "pip install 'onnxopt[cluster]'")


class TestCluster:
    pytestmark = slow_with_dask

    def test_no_scheduler_is_one_sentence(self, tmp_path: Path) -> None:
        refused(jobs(tmp_path, JOBS, "--cluster", "tcp://127.0.0.1:1"), "no scheduler answers")

    def test_a_job_goes_on_where_its_worker_was_killed(self, tmp_path: Path) -> None:
        names = ("good", "kills_worker", "bad", "other")
        made = [Job(Path(name), Path(f"{name}.out"), (), tmp_path) for name in names]
        with Cluster("local:2") as pool:
            found = dict(batch(FAKE, made, pool, lambda what, share: None))
        assert [found[index].status for index in range(4)] == ["met", "met", "failed", "met"]
        assert (tmp_path / "killed").exists()

    def test_a_scheduler_that_goes_away_is_one_sentence(self, scheduler: str, tmp_path: Path) -> None:
        text = "".join(f'[[job]]\nmodel = "{name}"\noutput = "{name}.out"\n' for name in ("good", "kills_scheduler"))
        refused(jobs(tmp_path, text, "--cluster", scheduler), "the scheduler is gone")
