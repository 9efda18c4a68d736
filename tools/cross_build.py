"""Builds the native libraries for other systems, with zig's compilers: `pip install ziglang`.

    python tools/cross_build.py                         # all targets, in build/cross/
    python tools/cross_build.py armv7 windows-x64       # some
    python tools/cross_build.py --check armv7           # only whether the sources compile, without warnings
    python tools/cross_build.py --wheel aarch64         # Python wheels, in dist/

Nothing of it runs here, but for the native tests of Linux targets where qemu-user is installed, and of Windows where
wine is.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from common.pages import ROOT

NATIVE = ROOT / "onnxopt" / "native"
BUILD = ROOT / "build" / "cross"
WHEELS = ROOT / "dist"

LIBRARIES = {"Linux": (".so", b"\x7fELF"), "Windows": (".dll", b"MZ"), "Darwin": (".dylib", b"\xcf\xfa\xed\xfe")}
"""How the names of libraries end, and how their bytes begin."""

_HOST_FLAGS = ("-m", "-Wno-maybe-uninitialized", "-O", "-flto", "-ffat-lto-objects")
"""Flags for this machine's processor, and for GCC alone."""


class CannotBuildError(Exception):
    """What cannot be built here, and why."""


@dataclass(frozen=True, slots=True)
class Target:
    """A system to build for."""

    zig: str
    """What zig's -target calls it, and further flags."""
    system: str
    """CMAKE_SYSTEM_NAME."""
    processor: str
    """CMAKE_SYSTEM_PROCESSOR."""
    wheel: str = ""
    """The platform that pip calls it, if it has wheels."""
    emulator: str | None = None
    """The program that runs its tests: of qemu-user, or wine."""
    tests: str = ""
    """What zig calls the target of the tests; for Linux with musl, so that they need no files of the other system."""


TARGETS = {
    "x86_64": Target("x86_64-linux-gnu.2.17", "Linux", "x86_64", "manylinux_2_17_x86_64"),
    "x86_64-musl": Target("x86_64-linux-musl", "Linux", "x86_64", "musllinux_1_2_x86_64", "qemu-x86_64",
                          "x86_64-linux-musl"),
    "x86": Target("x86-linux-gnu.2.17", "Linux", "i686", "manylinux_2_17_i686", "qemu-i386", "x86-linux-musl"),
    "aarch64": Target("aarch64-linux-gnu.2.17", "Linux", "aarch64", "manylinux_2_17_aarch64", "qemu-aarch64",
                      "aarch64-linux-musl"),
    "armv7": Target("arm-linux-gnueabihf.2.17 -mcpu=cortex_a7", "Linux", "armv7l", "manylinux_2_17_armv7l", "qemu-arm",
                    "arm-linux-musleabihf -mcpu=cortex_a7"),
    "riscv64": Target("riscv64-linux-gnu.2.27", "Linux", "riscv64", "manylinux_2_27_riscv64", "qemu-riscv64",
                      "riscv64-linux-musl"),
    "windows-x64": Target("x86_64-windows-gnu", "Windows", "AMD64", "win_amd64", "wine", "x86_64-windows-gnu"),
    "macos-arm64": Target("aarch64-macos.13.0", "Darwin", "arm64", "macosx_13_0_arm64"),
}  # fmt: skip


def zig() -> str:
    """The compiler's program. Raises CannotBuildError where there is none."""
    if found := shutil.which("zig"):
        return found
    package = importlib.util.find_spec("ziglang")
    for folder in (package and package.submodule_search_locations) or ():
        if found := shutil.which("zig", path=folder):
            return found
    raise CannotBuildError("zig is not installed; `pip install ziglang` installs it")


def toolchain(target: Target, name: str, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
    """The environment, and CMake's variables, that make it build for the target, which zig calls `name`."""
    folder.mkdir(parents=True, exist_ok=True)
    tools = {tool: folder / f"zig-{tool}" for tool in ("ar", "ranlib")}
    for tool, path in tools.items():  # CMake takes compilers with arguments, and these only without
        path.write_text(f'#!/bin/sh\nexec {shlex.join([zig(), tool])} "$@"\n', encoding="utf-8")
        path.chmod(0o755)
    compilers = {"CC": "cc", "CXX": "c++"}
    target_flags = ["-target", *name.split()]
    environment = {variable: shlex.join([zig(), tool, *target_flags]) for variable, tool in compilers.items()}
    # To ask which compiler it has, CMake links a program, for which zig builds C++'s library: a minute. It is told.
    told = {"COMPILER_ID": "Clang", "COMPILER_ID_RUN": "TRUE"}
    # CMake reads that program's format as well. What zig links registers destructors and does not run them when it is
    # unloaded, so the process would jump into nothing at its end: it stays loaded.
    elf = {"CMAKE_EXECUTABLE_FORMAT": "ELF", "CMAKE_SHARED_LINKER_FLAGS": "-Wl,-z,nodelete"}
    return environment, {
        **(elf if target.system == "Linux" else {}),
        **{f"CMAKE_{language}_{key}": value for language in ("C", "CXX") for key, value in told.items()},
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_SYSTEM_NAME": target.system,
        "CMAKE_SYSTEM_PROCESSOR": target.processor,
        "CMAKE_AR": str(tools["ar"]),
        "CMAKE_RANLIB": str(tools["ranlib"]),
        "CMAKE_INSTALL_NAME_TOOL": "true",
        "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",
        "ONNXOPT_WERROR": "ON",
    }


def configured(target: Target, name: str, folder: Path, *options: str) -> None:
    """Makes a build folder for the target, which zig calls `name`. Raises CannotBuildError with what CMake printed."""
    environment, settings = toolchain(target, name, folder)
    defined = [f"-D{key}={value}" for key, value in settings.items()]
    said(["cmake", "-S", str(NATIVE), "-B", str(folder), *defined, *options], environment)


def said(command: Sequence[str | Path], environment: dict[str, str] | None = None) -> str:
    """What a command prints. Raises CannotBuildError with it where it fails."""
    caches = {f"ZIG_{which}_CACHE_DIR": str(BUILD / "cache") for which in ("GLOBAL", "LOCAL")}
    done = subprocess.run(command, env=os.environ | caches | (environment or {}), check=False, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode:
        raise CannotBuildError(f"{shlex.join(map(str, command))} failed:\n{done.stdout}")
    return done.stdout


def build(name: str, jobs: int) -> str:
    """Builds the libraries, and runs the native tests where they can run; what came of it, in words."""
    target, folder = TARGETS[name], BUILD / name
    configured(target, target.zig, folder)
    said(["cmake", "--build", folder, "--parallel", str(jobs)])
    sizes = [f"{path.name} {path.stat().st_size:,} bytes" for path in sorted(folder.glob("*onnxopt*.*"))
             if path.suffix in (".so", ".dll", ".dylib")]  # fmt: skip
    emulator = target.emulator and (shutil.which(target.emulator) or shutil.which(f"{target.emulator}-static"))
    if not emulator:
        return f"compiled only: {', '.join(sizes)}"
    folder = BUILD / f"{name}-tests"
    configured(target, target.tests, folder, "-DONNXOPT_TESTS=ON", f"-DCMAKE_CROSSCOMPILING_EMULATOR={emulator}",
               "-DCMAKE_EXE_LINKER_FLAGS=-static")  # fmt: skip
    said(["cmake", "--build", folder, "--parallel", str(jobs)])
    said(["ctest", "--test-dir", folder, "--output-on-failure", "--parallel", str(jobs)])
    return f"native tests pass under {Path(emulator).name}: {', '.join(sizes)}"


def wheel(name: str, jobs: int) -> str:
    """Builds the Python wheel, which serves every Python on its platform; where it lies, and its size."""
    target, folder = TARGETS[name], BUILD / f"{name}-wheel"
    environment, settings = toolchain(target, target.zig, folder)
    environment["_PYTHON_HOST_PLATFORM"] = target.wheel
    options = {f"env.{key}": value for key, value in environment.items()}
    options |= {f"cmake.define.{key}": value for key, value in settings.items()}
    options["install.strip"] = "false"  # the linker did, and knows the format
    given = [word for key, value in options.items() for word in ("--config-settings", f"{key}={value}")]
    said([sys.executable, "-m", "pip", "wheel", "--no-deps", *given, "--wheel-dir", folder, ROOT],
         {"CMAKE_BUILD_PARALLEL_LEVEL": str(jobs)})  # fmt: skip
    (made,) = folder.glob("*.whl")
    check_wheel(made, target)
    WHEELS.mkdir(exist_ok=True)
    made = made.replace(WHEELS / made.name)
    return f"{made.relative_to(ROOT)} {made.stat().st_size:,} bytes"


def check_wheel(path: Path, target: Target) -> None:
    """Raises CannotBuildError unless a wheel has the target's tag and libraries, and what its RECORD lists."""
    ending, magic = LIBRARIES[target.system]
    with zipfile.ZipFile(path) as wheel:
        info = next(name.partition("/")[0] for name in wheel.namelist() if name.endswith(".dist-info/RECORD"))
        tags = [line for line in wheel.read(f"{info}/WHEEL").decode().splitlines() if line.startswith("Tag: ")]
        if tags != [f"Tag: py3-none-{target.wheel}"] or f"-py3-none-{target.wheel}.whl" not in path.name:
            raise CannotBuildError(f"{path.name}: its tags are {tags}, not py3-none-{target.wheel}")
        libraries = {name for name in wheel.namelist() if name.startswith("onnxopt/lib/")}
        prefix = "" if target.system == "Windows" else "lib"
        wanted = {f"onnxopt/lib/{prefix}{name}{ending}" for name in ("onnxopt", "onnxopt_quantizer")}
        foreign = [name for name in libraries & wanted if not wheel.read(name).startswith(magic)]
        if libraries != wanted or foreign:
            raise CannotBuildError(f"{path.name}: its libraries are {sorted(libraries)}, of these foreign: {foreign}")
        for name, digest, _ in csv.reader(wheel.read(f"{info}/RECORD").decode().splitlines()):
            found = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(name)).digest()).rstrip(b"=").decode()
            if digest and digest != f"sha256={found}":
                raise CannotBuildError(f"{path.name}: {name} is not what RECORD says")


def check(name: str, jobs: int, named: str = "") -> str:
    """Compiles what devices need, without optimization, as CMake would but for another system; nothing is linked.

    Arguments:
        named: an expression for how the names of the sources start; all, if it is empty.
    """
    folder = BUILD / "check"
    folder.mkdir(parents=True, exist_ok=True)
    options = ("WERROR=ON", "DECODER_ONLY=ON")
    said(
        [
            "cmake",
            "-S",
            NATIVE,
            "-B",
            folder,
            "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
            *(f"-DONNXOPT_{one}" for one in options),
        ]
    )
    every = json.loads((folder / "compile_commands.json").read_text(encoding="utf-8"))
    commands = [one["command"] for one in every if re.match(named, Path(one["file"]).name)]
    target = ["-target", *TARGETS[name].zig.split()]

    def complaint(command: str) -> str:
        words = shlex.split(command)
        flags = [word for word in words[1 : words.index("-o")] if not word.startswith(_HOST_FLAGS)]
        tool, source = "cc" if words[-1].endswith(".c") else "c++", Path(words[-1])
        made = folder / f"{name}-{source.stem}.o"
        try:
            said([zig(), tool, *target, *flags, "-O0", "-c", source, "-o", made])
        except CannotBuildError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(jobs) as pool:
        complaints = [text for text in pool.map(complaint, commands) if text]
    if complaints:
        raise CannotBuildError("\n".join(complaints))
    return f"{len(commands)} sources compile without warnings; nothing was linked"


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--check", dest="action", action="store_const", const=check, default=build,
                        help="only compile, which takes seconds")  # fmt: skip
    parser.add_argument("--wheel", dest="action", action="store_const", const=wheel, help="build Python wheels")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    if unknown := set(arguments.targets) - set(TARGETS):
        parser.error(f"there is no target {', '.join(sorted(unknown))}; expected some of {', '.join(TARGETS)}")
    failed = 0
    for name in arguments.targets or TARGETS:
        try:
            print(f"{name}: {arguments.action(name, arguments.jobs)}", flush=True)
        except CannotBuildError as error:
            failed = 1
            print(f"{name}: {error}", file=sys.stderr, flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
