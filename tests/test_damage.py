"""Damaged files, killed processes, full disks: an error or the same values, and no half-written output, ever.

The native tests do the same under sanitizers and in larger numbers (onnxopt/native/tests/test_container.cc).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from builders import mlp
from test_streamed import chain, session

import onnxopt
from onnxopt import native
from onnxopt.build import container
from onnxopt.encoding import Affine
from onnxopt.errors import ContainerError
from onnxopt.graph import Graph, split, wrap

FLIPS = 2000
KILLS = 4
RUN = (sys.executable, "-P", "-c", "from onnxopt.cli import main; main()")


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("damage")
    onnx.save(mlp(), folder / "model.onnx")
    result = onnxopt.optimize(folder / "model.onnx", folder / "small.onnx")
    assert not result.unchanged
    return (folder / "small.onnx").read_bytes()


def _weights(data: bytes) -> dict[str, bytes] | None:
    """Every weight's bytes; None where the reader refuses the file."""
    try:
        with native.Container(data) as container:
            return {name: values.tobytes() for name, values in container.decode(threads=1).items()}
    except ContainerError as error:
        assert str(error)
        return None


def test_every_truncation_is_refused_or_loses_nothing(compressed: bytes) -> None:
    """The last bytes of the outer model are opset versions: without these the weights are still whole."""
    intact = _weights(compressed)
    assert intact
    with native.Container(compressed) as container:
        payload = sum(entry.coded_size for entry in container.entries)
    for size in range(len(compressed)):
        got = _weights(compressed[:size])
        assert got is None or (got == intact and size > payload)
    assert _weights(compressed + b"\0") is None


def test_flipped_bits_are_refused_or_change_nothing(compressed: bytes) -> None:
    intact = _weights(compressed)
    rng = np.random.default_rng(1)
    for bit in rng.integers(0, 8 * len(compressed), FLIPS):
        damaged = bytearray(compressed)
        damaged[bit // 8] ^= 1 << bit % 8
        assert _weights(bytes(damaged)) in (None, intact)


def test_mixed_up_files_are_refused_or_change_nothing(compressed: bytes) -> None:
    """Runs of bytes moved, repeated, zeroed: what a bad disk or a bad download does."""
    intact = _weights(compressed)
    rng = np.random.default_rng(2)
    for _ in range(FLIPS):
        start, to = np.sort(rng.integers(0, len(compressed), 2))
        size = int(rng.integers(1, 200))
        part = (compressed[start : start + size], bytes(size), b"", rng.bytes(size))[rng.integers(4)]
        assert _weights(compressed[:to] + part + compressed[to + size :]) in (None, intact)


def on_a_grid(model: onnx.ModelProto) -> bytes:
    """The file, with small integers for weights, whose rows and columns differ in size."""
    inner, outside, tensors = split(model)
    graph, rng = Graph(inner), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        rows, columns = (np.exp(rng.normal(0, 0.5, n)) for n in tensor.dims)
        q = np.rint(np.outer(rows, columns) * rng.standard_normal(tensor.dims)).astype(np.int32)
        graph.store(tensor.name, Affine(q, np.array([-12], np.int16), 0, np.dtype(np.float32)))
    inner, encodings = graph.export()
    packed = container.write(inner.SerializeToString(), encodings, "{}")
    return bytes(wrap(model, inner, outside, tensors, packed).SerializeToString())


@pytest.mark.parametrize("residence", ["loaded", "streamed"])
def test_damage_ends_a_session_or_changes_nothing(residence: str) -> None:
    """Flipped bits of the container, through ONNX Runtime: weights decoded at once, or in every run."""
    whole = on_a_grid(chain(2, 64))
    begin, x = whole.index(b"onnxopt\0"), np.ones((1, 64), np.float32)
    with native.Container(whole) as reader:
        assert "adaptive" in {entry.codec for entry in reader.entries}
        size = sum(entry.coded_size for entry in reader.entries)
    (wanted,) = session(whole, residence).run(None, {"x": x})
    refused = 0
    for bit in np.random.default_rng(3).integers(0, 8 * size, 200):
        damaged = bytearray(whole)
        damaged[begin + bit // 8] ^= 1 << bit % 8
        try:
            (got,) = session(bytes(damaged), residence).run(None, {"x": x})
        except Exception as error:  # the runtime raises classes of its own
            assert "onnxopt: " in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(got, wanted)
    assert refused > 100


# --- writing ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("larger") / "model.onnx"
    onnx.save(mlp(512), path)
    return path


@pytest.mark.slow
def test_a_killed_process_leaves_no_half_file(larger: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    command = (*RUN, "optimize", str(larger), "-o", str(output))
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    takes = time.monotonic() - started
    whole = output.read_bytes()
    output.unlink()
    # Some early, most towards the end, where the file is written and checked.
    for share in (0.3, *np.linspace(0.6, 1.1, KILLS - 1)):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(share * takes)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if output.exists():
            assert output.read_bytes() == whole
            output.unlink()
        assert all(path.name.startswith(".onnxopt-") for path in tmp_path.iterdir())


INTERRUPTED = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may start its background jobs deaf to it
from onnxopt.cli import main
from onnxopt import runtime

wanted = sys.argv.pop(1)

def slow(load):
    def slowly(path, *more, **options):
        if path.name == wanted:
            print("loading", file=sys.stderr, flush=True)
            time.sleep(60)
        return load(path, *more, **options)
    return slowly

runtime.load_to_compare, runtime.sessions = slow(runtime.load_to_compare), slow(runtime.sessions)
main()
"""


IMPORTING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)

class Slow:
    def find_spec(self, name, *_):
        if name == "onnxruntime":
            print("importing", file=sys.stderr, flush=True)
            time.sleep(60)

from onnxopt.cli import main
sys.meta_path.insert(0, Slow())
main()
"""


def test_an_interrupt_while_modules_are_imported_leaves_no_trace() -> None:
    process = subprocess.Popen([sys.executable, "-c", IMPORTING, "--help"], stderr=subprocess.PIPE, text=True)
    assert process.stderr
    assert process.stderr.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == "onnxopt: interrupted; no half-written file is left\n"
    assert process.wait() == 130


@pytest.mark.parametrize(
    ("name", "number"),
    [("trial.onnx", signal.SIGINT), ("out.onnx", signal.SIGTERM)],
    ids=["searching", "checking"],
)
@pytest.mark.slow
def test_an_interrupted_process_says_so_and_leaves_nothing(
    larger: Path, tmp_path: Path, name: str, number: signal.Signals
) -> None:
    """While a trial lies in a temporary folder, and while the hidden file is complete but not in its place."""
    folder, temporary = tmp_path / "folder", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    command = (sys.executable, "-P", "-c", INTERRUPTED, name, "optimize", str(larger), "-o", str(folder / "out.onnx"))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    assert process.stderr
    assert process.stderr.readline() == "loading\n"
    assert list((folder if name == "out.onnx" else temporary).rglob(name))
    process.send_signal(number)
    _, error = process.communicate(timeout=50)
    assert process.returncode == 128 + number
    assert error == "onnxopt: interrupted; no half-written file is left\n"
    assert not list(folder.iterdir())
    assert not list(temporary.rglob("*.onnx"))


def _failure(model: Path, output: Path) -> str:
    """The one sentence of an `optimize` that must fail."""
    command = (*RUN, "optimize", str(model), "-o", str(output))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1, done
    assert done.stderr.startswith(f"onnxopt: {output}: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def _leaves_nothing(model: Path, output: Path) -> None:
    before = sorted(output.parent.iterdir())
    _failure(model, output)
    assert sorted(output.parent.iterdir()) == before


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 kB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode != 0:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_sentence(larger: Path, full_disk: Path) -> None:
    _leaves_nothing(larger, full_disk / "out.onnx")
    keep = full_disk / "keep.onnx"
    keep.write_bytes(b"older")
    _leaves_nothing(larger, keep)
    assert keep.read_bytes() == b"older"


@pytest.mark.slow
def test_a_full_disk_for_statistics_is_one_sentence(larger: Path, full_disk: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    environment = {**os.environ, "XDG_CACHE_HOME": str(full_disk)}
    command = (*RUN, "optimize", str(larger), "-o", str(output))
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=environment)
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]  # the runtime, too, may miss the place
    assert said.startswith(f"onnxopt: {larger}: the statistics cannot be kept")
    assert "No space left" in said
    assert "Traceback" not in done.stderr
    assert not output.exists()


def test_a_read_only_folder_is_one_sentence(larger: Path, tmp_path: Path) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    folder.chmod(0o555)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write to every folder")
    _leaves_nothing(larger, folder / "out.onnx")


def test_a_missing_folder_is_one_sentence(larger: Path, tmp_path: Path) -> None:
    _failure(larger, tmp_path / "no" / "out.onnx")
    assert not (tmp_path / "no").exists()
