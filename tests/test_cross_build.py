"""The native libraries compile for systems that this machine is not."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import zipfile
from pathlib import Path

import pytest

import cross_build

NATIVE = Path(__file__).resolve().parents[1] / "onnxopt" / "native"


@pytest.fixture
def compiler() -> None:
    try:
        cross_build.zig()
    except cross_build.CannotBuildError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.usefixtures("compiler")
def test_what_devices_need_compiles_for_a_32_bit_system() -> None:
    """What WebAssembly, of 32 bits too, leaves out. `python tools/cross_build.py` builds and runs all that can run."""
    found = cross_build.check("armv7", os.cpu_count() or 1, "capi|inner_|lent_|ort_|other_libraries|streamed")
    assert re.match(r"\d\d? sources compile without warnings", found)


@pytest.mark.slow
def test_arm_decodes_with_neon_as_without(tmp_path: Path) -> None:
    """Built by Debian's compiler: zig would build a library of C++ first, for minutes."""
    emulator, compiler = shutil.which("qemu-aarch64"), shutil.which("aarch64-linux-gnu-g++")
    if emulator is None or compiler is None:
        pytest.skip("needs qemu-user and g++-aarch64-linux-gnu")
    cross_build.said(["cmake", "-S", NATIVE, "-B", tmp_path, "-DCMAKE_SYSTEM_NAME=Linux",
                      "-DCMAKE_SYSTEM_PROCESSOR=aarch64", f"-DCMAKE_CXX_COMPILER={compiler}",
                      f"-DCMAKE_C_COMPILER={compiler.removesuffix('g++')}gcc", "-DCMAKE_BUILD_TYPE=Plain",
                      "-DCMAKE_CXX_FLAGS=-O1", "-DONNXOPT_TESTS=ON", "-DCMAKE_EXE_LINKER_FLAGS=-static"])  # fmt: skip
    cross_build.said(["cmake", "--build", tmp_path, "--target", "test_rans", "--parallel", str(os.cpu_count() or 1)])
    cross_build.said([emulator, tmp_path / "test_rans"])


def test_without_a_compiler_it_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    monkeypatch.setattr("sys.argv", ["cross_build", "aarch64"])
    assert cross_build.main() == 1
    assert capsys.readouterr().err == "aarch64: zig is not installed; `pip install ziglang` installs it\n"


def test_unknown_targets_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["cross_build", "vax"])
    with pytest.raises(SystemExit):
        cross_build.main()
    assert "there is no target vax; expected some of x86_64, " in capsys.readouterr().err


def wheel(folder: Path, platform: str, library: str, content: bytes, recorded: bytes) -> Path:
    """One of two libraries and its record, as scikit-build packs them."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(recorded).digest()).rstrip(b"=").decode()
    path = folder / f"onnxopt-1-py3-none-{platform}.whl"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("onnxopt-1.dist-info/WHEEL", f"Wheel-Version: 1.0\nTag: py3-none-{platform}\n")
        for name in (library, library.replace("onnxopt.", "onnxopt_quantizer.")):
            made.writestr(f"onnxopt/lib/{name}", content)
        made.writestr("onnxopt-1.dist-info/RECORD", f"onnxopt/lib/{library},sha256={digest},{len(content)}\n")
    return path


def test_wheels_are_what_they_say(tmp_path: Path) -> None:
    windows, mac = cross_build.TARGETS["windows-x64"], cross_build.TARGETS["macos-arm64"]
    dll = b"MZ of a library"
    cross_build.check_wheel(wheel(tmp_path, "win_amd64", "onnxopt.dll", dll, dll), windows)
    wrong = (
        (("win_amd64", "onnxopt.dll", dll, dll), mac, "its tags are"),
        (("win_amd64", "libonnxopt.so", dll, dll), windows, "its libraries are"),
        (("win_amd64", "onnxopt.dll", b"\x7fELF", b"\x7fELF"), windows, "foreign: .'onnxopt/lib/onnxopt"),
        (("win_amd64", "onnxopt.dll", dll, b"MZ of another"), windows, "is not what RECORD says"),
    )
    for made, target, message in wrong:
        with pytest.raises(cross_build.CannotBuildError, match=message):
            cross_build.check_wheel(wheel(tmp_path, *made), target)
