"""The native library as C and C++ projects get it: installed by CMake, without encoders, as devices want it."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import run_model
from compressing import compressed
from test_c_example import two_outputs

pytestmark = pytest.mark.slow

EXAMPLES = run_model.NATIVE / "examples"


def said(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        command, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cmake") is None:
        pytest.skip("needs CMake")
    build, installed = tmp_path_factory.mktemp("build"), tmp_path_factory.mktemp("prefix")
    said("cmake", "-S", run_model.NATIVE, "-B", build, "-DCMAKE_BUILD_TYPE=Plain", "-DCMAKE_INSTALL_LIBDIR=lib",
         "-DONNXOPT_DECODER_ONLY=ON", f"-DCMAKE_INSTALL_PREFIX={installed}")  # fmt: skip
    said("cmake", "--build", build, "--parallel", str(os.cpu_count() or 1))
    said("cmake", "--install", build)
    return installed


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(compressed(two_outputs()))
    return path


def check(program: Path, model: Path, library: Path | None = None) -> None:
    runtime = run_model.wheel_library()
    if runtime is None:
        pytest.skip("this onnxruntime wheel has no C library")
    run_model.check(run_model.run(program, runtime, model, library), two_outputs())


def test_a_project_finds_the_package(prefix: Path, model: Path, tmp_path: Path) -> None:
    said("cmake", "-S", EXAMPLES, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    said("cmake", "--build", tmp_path / "build")
    for program in ("run_model", "run_model_static"):
        check(tmp_path / "build" / program, model)
    check(tmp_path / "build" / "run_model", model, prefix / "lib" / "libonnxopt.so")


def test_pkg_config_knows_it(prefix: Path, model: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    flags = said("pkg-config", "--cflags", "--libs", "onnxopt", PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    program = tmp_path / "run_model"
    source, rpath = EXAMPLES / "run_model.c", f"-Wl,-rpath,{prefix / 'lib'}"
    said("cc", source, *flags.split(), rpath, "-ldl", "-o", program)
    check(program, model)


def test_a_library_without_encoders_says_so(prefix: Path) -> None:
    library = ctypes.CDLL(str(prefix / "lib" / "libonnxopt.so"))
    library.onnxopt_last_error.restype = ctypes.c_char_p
    out, size = ctypes.c_void_p(), ctypes.c_size_t()
    integer = ctypes.byref(ctypes.c_int32(1))
    one = ctypes.c_size_t(1)
    assert library.onnxopt_encode(integer, one, one, -1, 0, ctypes.byref(out), ctypes.byref(size)) == -1
    assert library.onnxopt_last_error() == b"this library was built without encoders"
    assert library.onnxopt_encode_lossless(integer, one, one, one, ctypes.byref(out), ctypes.byref(size)) == -1
