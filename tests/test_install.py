"""The native library as C and C++ projects get it: installed by CMake, without encoders, as devices want it."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import run_model
from compressing import compressed
from fetching import runtime_headers
from test_c_example import two_outputs

from common.lessons import run_by

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


@pytest.fixture(scope="module")
def runtime() -> Path:
    found = run_model.wheel_library()
    if found is None:
        pytest.skip("this onnxruntime wheel has no C library")
    return found


@pytest.fixture(scope="module")
def linked(runtime: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ONNX Runtime as a linker wants to find it."""
    folder = tmp_path_factory.mktemp("runtime")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(runtime)
    return folder


@pytest.fixture(scope="module")
def examples(prefix: Path, linked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built against the installed library, and against ONNX Runtime."""
    build = tmp_path_factory.mktemp("examples")
    said("cmake", "-S", EXAMPLES, "-B", build, f"-DCMAKE_PREFIX_PATH={prefix}",
         "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Werror", f"-DONNXRUNTIME_INCLUDE={runtime_headers()}",
         f"-DONNXRUNTIME_LIBRARY={linked / 'libonnxruntime.so'}")  # fmt: skip
    said("cmake", "--build", build, "--parallel", str(os.cpu_count() or 1))
    return build


@pytest.mark.parametrize("kind", ["onnxopt", "static"])
def test_a_c_project_finds_the_package(examples: Path, prefix: Path, runtime: Path, model: Path, kind: str) -> None:
    program = examples / f"run_model_{kind}"
    for library in (None, prefix / "lib" / "libonnxopt.so", Path("linked")):
        run_model.check(run_model.run(program, runtime, model, library), two_outputs())


@pytest.mark.parametrize("kind", ["onnxopt", "static"])
def test_a_cxx_project_finds_the_package(examples: Path, model: Path, kind: str) -> None:
    for way in ([], ["register"]):
        run_model.check(said(examples / f"run_model_cxx_{kind}", model, *way), two_outputs())
    listed = said(examples / f"list_weights_{kind}", model).splitlines()
    assert [line.partition(", ")[0] for line in listed] == ["w: 2048 bytes", "v: 864 bytes"]


def lines_of(page: str, language: str) -> str:
    """What a page of the documents says a program in this language has."""
    found = run_by("tests/test_install.py", page)
    (text,) = (block.text for block in found if block.language == language)
    return text


@pytest.mark.parametrize("page", ["docs/hosts.md", "docs/tutorials/images.md"])
def test_the_lines_for_c_run(page: str, prefix: Path, linked: Path, model: Path) -> None:
    """Written with nothing but the runtime's header; the page leaves out what any program has."""
    lines = lines_of(page, "c")
    declared = "" if "OrtSession* session;" in lines else "OrtSessionOptions* options; OrtSession* session;\n"
    created = "" if "CreateSessionOptions(" in lines else "api->CreateSessionOptions(&options);\n"
    checked = re.sub(r"^(api->.*);$", r"if (\1 != NULL) return 2;", f"{declared}{created}{lines}", flags=re.M)
    ours = {"libonnxopt.so": prefix / "lib" / "libonnxopt.so", "small.onnx": model}
    for name, file in ours.items():
        checked = checked.replace(f'"{name}"', f'"{file}"')
    said_first = 'api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "a", &env)'
    source = model.with_name("page.c")
    source.write_text(
        "#include <stdio.h>\n#include <onnxruntime_c_api.h>\nint main(void) {\n"
        "const OrtApi* api = OrtGetApiBase()->GetApi(16);\nOrtEnv* env;\n"
        f"if ({said_first} != NULL) return 2;\n{checked}\nsize_t count;\n"
        'if (api->SessionGetOutputCount(session, &count) != NULL) return 2;\nprintf("%zu", count);\nreturn 0;\n}\n'
    )
    said("cc", "-Wall", "-Wextra", "-Werror", "-isystem", runtime_headers(), source,
         linked / "libonnxruntime.so", f"-Wl,-rpath,{linked}", "-o", source.with_suffix(""))  # fmt: skip
    assert said(source.with_suffix("")) == "2"


def test_the_lines_for_cxx_run(prefix: Path, linked: Path, model: Path) -> None:
    lines = lines_of("docs/hosts.md", "cpp").replace('"small.onnx"', f'"{model}"')
    source = model.with_name("page.cc")
    source.write_text(f'#include <cstdio>\n{lines}\nint main() {{ std::printf("%zu", session.GetOutputCount()); }}\n')
    ours = [f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", "-lonnxopt", f"-Wl,-rpath,{linked}:{prefix / 'lib'}"]
    said("c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", runtime_headers(), source,
         linked / "libonnxruntime.so", *ours, "-o", source.with_suffix(""))  # fmt: skip
    assert said(source.with_suffix("")) == "2"


def test_exceptions_say_what_is_wrong(examples: Path, tmp_path: Path) -> None:
    def complaint(name: str, path: Path) -> str:
        done = subprocess.run([examples / f"{name}_static", path], capture_output=True, text=True, check=False)
        assert done.returncode == 1
        return done.stderr

    (tmp_path / "damaged.onnx").write_bytes(b"no model")
    assert "none.onnx: cannot be opened" in complaint("run_model_cxx", tmp_path / "none.onnx")
    for program in ("run_model_cxx", "list_weights"):
        assert "not a compressed ONNX model" in complaint(program, tmp_path / "damaged.onnx")


def test_our_slots_are_those_of_the_runtimes_header() -> None:
    source = run_model.NATIVE / "src" / "ort_abi_check.cc"
    said("c++", "-std=c++17", "-fsyntax-only", "-DONNXOPT_HAVE_ORT_HEADERS", "-isystem", runtime_headers(), source)


def test_pkg_config_knows_it(prefix: Path, runtime: Path, model: Path, tmp_path: Path) -> None:
    if shutil.which("pkg-config") is None:
        pytest.skip("needs pkg-config")
    flags = said("pkg-config", "--cflags", "--libs", "onnxopt", PKG_CONFIG_PATH=str(prefix / "lib" / "pkgconfig"))
    for compiler, source, name in (("cc", "run_model.c", "run_model"), ("c++", "list_weights.cc", "list_weights")):
        rpath = f"-Wl,-rpath,{prefix / 'lib'}"
        said(compiler, EXAMPLES / source, *flags.split(), rpath, "-ldl", "-o", tmp_path / name)
    run_model.check(run_model.run(tmp_path / "run_model", runtime, model, None), two_outputs())
    assert said(tmp_path / "list_weights", model).startswith("w: 2048 bytes")


def test_a_library_without_encoders_says_so(prefix: Path) -> None:
    library = ctypes.CDLL(str(prefix / "lib" / "libonnxopt.so"))
    library.onnxopt_last_error.restype = ctypes.c_char_p
    out, size = ctypes.c_void_p(), ctypes.c_size_t()
    integer = ctypes.byref(ctypes.c_int32(1))
    one = ctypes.c_size_t(1)
    assert library.onnxopt_encode(integer, one, one, -1, 0, ctypes.byref(out), ctypes.byref(size)) == -1
    assert library.onnxopt_last_error() == b"this library was built without encoders"
    assert library.onnxopt_encode_lossless(integer, one, one, one, ctypes.byref(out), ctypes.byref(size)) == -1
