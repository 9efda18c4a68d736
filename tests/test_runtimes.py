"""Old and new ONNX Runtimes: the plain C library from 1.17.3 on, Python wheels from 1.17 on.

Fetched once from the npm registry and the Python package index into build/runtimes/.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import run_model
from compressing import compressed
from fetching import FOLDER, alone_with, fetched, npm_package
from test_c_example import two_outputs
from test_pairs import X, residual

import onnxopt
from onnxopt import native
from onnxopt.graph import QuantParams

pytestmark = pytest.mark.slow

NPM = ("1.17.3", "1.19.2", "1.21.0")
"""Of the package onnxruntime-node, which carries the C library."""
WHEELS = ("1.17.3", "1.19.2", "1.22.1", "1.23.2")

SCRIPT = """
import sys
import numpy as np
import onnxruntime
import onnxopt

path, registering, image, x = sys.argv[1], sys.argv[2] == "register", np.load(sys.argv[3]), np.load(sys.argv[4])
if registering:
    options = onnxruntime.SessionOptions()
    onnxopt.register(options)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
else:
    session = onnxopt.load(path, providers=["CPUExecutionProvider"])
    again = onnxopt.load(path, onnxruntime.SessionOptions())
    again.run(None, {"x": x, "image": image})
for _ in range(2):
    y, z = session.run(None, {"x": x, "image": image})
np.savez(sys.argv[5], y=y, z=z, version=onnxruntime.__version__)
"""


def c_library(version: str) -> Path:
    if not sys.platform.startswith("linux") or os.uname().machine != "x86_64":
        pytest.skip("the package is unpacked for Linux on x86-64 only")
    library = FOLDER / f"libonnxruntime.so.{version}"
    with alone_with(library.name):
        if not library.exists():
            unpack_c_library(version, library)
    return library


def unpack_c_library(version: str, library: Path) -> None:
    with npm_package("onnxruntime-node", version) as package:
        names = [n for n in package.getnames() if "/linux/x64/libonnxruntime.so" in n]
        content = package.extractfile(names[0])
        assert content is not None
        unfinished = library.with_suffix(".part")
        unfinished.write_bytes(content.read())
        unfinished.rename(library)


def packages(version: str, package: str = "onnxruntime") -> Path:
    """A folder to import this onnxruntime from, before all else that this interpreter has."""
    folder = FOLDER / f"{package}-{version}"
    with alone_with(folder.name):
        if not folder.exists():
            unfinished = folder.with_name(f"{folder.name}.part")
            shutil.rmtree(unfinished, ignore_errors=True)
            old = package == "onnxruntime" and version < "1.19"
            wanted = [f"{package}=={version}", *(["numpy<2", "ml_dtypes<0.6"] if old else [])]
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(unfinished)]
            fetched([*pip, *wanted], FOLDER)
            unfinished.rename(folder)
    return folder


def python_with(
    version: str, *arguments: str, cwd: Path | None = None, package: str = "onnxruntime"
) -> subprocess.CompletedProcess[str]:
    """What this interpreter says, with this onnxruntime."""
    path = os.pathsep.join(map(str, (packages(version, package), Path(onnxopt.__file__).parent.parent)))
    command, env = [sys.executable, *arguments], {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_model.build(tmp_path_factory.mktemp("example"))


@pytest.mark.parametrize("registering", [True, False], ids=["register", "create_session"])
@pytest.mark.parametrize("version", NPM)
def test_c_library(program: Path, tmp_path: Path, version: str, registering: bool) -> None:
    model = two_outputs()
    path = tmp_path / "model.onnx"
    path.write_bytes(compressed(model))
    library = native.library_path() if registering else None
    run_model.check(run_model.run(program, c_library(version), path, library), model)


def in_python(version: str, way: str, tmp_path: Path, file: bytes) -> subprocess.CompletedProcess[str]:
    (tmp_path / "model.onnx").write_bytes(file)
    rng = np.random.default_rng(1)
    np.save(tmp_path / "image.npy", rng.random((2, 3, 9, 9), np.float32))
    np.save(tmp_path / "x.npy", rng.random((2, 32), np.float32))
    files = [str(tmp_path / name) for name in ("image.npy", "x.npy", "out.npz")]
    # python -c imports from the working directory first
    return python_with(version, "-c", SCRIPT, str(tmp_path / "model.onnx"), way, *files, cwd=tmp_path)


@pytest.mark.parametrize("way", ["load", "register"])
@pytest.mark.parametrize("version", WHEELS)
def test_wheel(tmp_path: Path, version: str, way: str) -> None:
    done = in_python(version, way, tmp_path, compressed(two_outputs()))
    if way == "register" and version < "1.23":
        assert "use onnxopt.load(path)" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    got = np.load(tmp_path / "out.npz")
    assert str(got["version"]) == version
    for name, wanted in plainly(tmp_path).items():
        np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)


def plainly(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """What the model as it is makes of the inputs there."""
    plain = onnxruntime.InferenceSession(two_outputs().SerializeToString(), providers=["CPUExecutionProvider"])
    y, z = plain.run(None, {"x": np.load(folder / "x.npy"), "image": np.load(folder / "image.npy")})
    return {"y": y, "z": z}


@pytest.mark.parametrize("version", WHEELS)
def test_wheel_rounds_values(tmp_path: Path, version: str) -> None:
    """To integers of 5 bits in int8, and of 14 bits, which these operators have no type for."""
    rounded = {
        "y": QuantParams.within(0.5, 0, -16, 15),
        "z": QuantParams.within(2.0**-9, 0, -(2**13), 2**13 - 1),
    }
    done = in_python(version, "load", tmp_path, compressed(two_outputs(), rounded))
    assert done.returncode == 0, done.stderr
    got = np.load(tmp_path / "out.npz")
    for name, values in plainly(tmp_path).items():
        how = rounded[name]
        wanted = np.clip(np.rint(values / how.scale), *how.levels) * how.scale
        assert np.mean(got[name] != wanted) < 0.01  # sums that two runtimes round to either side of a half


@pytest.mark.parametrize(("version", "bits"), [(WHEELS[0], 4), ("1.22.1", 8), (WHEELS[-1], 8)])
def test_wheel_multiplies_integers_in_blocks(tmp_path: Path, version: str, bits: int) -> None:
    """As the newest runtime multiplies the same numbers in floats, but for inputs that are rounded to 8 bits."""
    file = compressed(two_outputs(), blocked={"w": bits})
    done = in_python(version, "load", tmp_path, file)
    assert done.returncode == 0, done.stderr
    plain = onnxopt.decompress(tmp_path / "model.onnx")
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in plain.graph.initializer}
    codes, scales = tensors["w"].reshape(16, -1), tensors["w@scales"].reshape(16, 1)
    if bits == 4:
        codes = np.stack([codes & 15, codes >> 4], 2).reshape(16, -1)
    wanted = np.load(tmp_path / "x.npy") @ ((codes.astype(np.float32) - 2 ** (bits - 1)) * scales).T
    got = np.load(tmp_path / "out.npz")
    assert str(got["version"]) == version
    assert np.abs(got["y"] - wanted).max() < 0.02 * np.abs(wanted).max()


RUN = """
import sys
import numpy as np
import onnxopt

session = onnxopt.load(sys.argv[1], providers=["CPUExecutionProvider"])
np.save(sys.argv[3], session.run(None, {"x": np.load(sys.argv[2])})[0])
"""


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("version", WHEELS)
def test_wheel_runs_integers(tmp_path: Path, version: str, bits: int) -> None:
    """The same classes, and scores within a step or two of rounding: sums fall to either side of a half."""
    onnx.save(residual(), tmp_path / "plain.onnx")
    contract = onnxopt.Contract(error=0.2)
    done = onnxopt.optimize(tmp_path / "plain.onnx", tmp_path / "model.onnx", contract, activations=bits)
    found = done.strategy("int8")
    assert found is not None and found.kept
    np.save(tmp_path / "x.npy", X)
    files = [str(tmp_path / name) for name in ("model.onnx", "x.npy", "y.npy")]
    ran = python_with(version, "-c", RUN, *files, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    (wanted,) = onnxopt.load(tmp_path / "model.onnx").run(None, {"x": X})
    got = np.load(tmp_path / "y.npy")
    assert np.array_equal(got.argmax(1), wanted.argmax(1))
    assert np.linalg.norm(got - wanted) < 0.05 * np.linalg.norm(wanted)


def test_environment_kept_private_is_explained(tmp_path: Path) -> None:
    """Registering the library by hand on an old wheel gives an error that says what to do."""
    path = tmp_path / "model.onnx"
    path.write_bytes(compressed(two_outputs()))
    script = (
        "import onnxruntime, sys\noptions = onnxruntime.SessionOptions()\n"
        "options.register_custom_ops_library(sys.argv[1])\nonnxruntime.InferenceSession(sys.argv[2], options)"
    )
    done = python_with("1.19.2", "-c", script, str(native.library_path()), str(path), cwd=tmp_path)
    assert done.returncode != 0
    assert "onnxopt.load(path)" in done.stderr and "onnxopt_create_session" in done.stderr


def test_outer_model_is_standard() -> None:
    """ONNX's own checker has nothing to say against the outer model but that it does not know the operator."""
    onnx.checker.check_model(compressed(two_outputs()), full_check=False)
