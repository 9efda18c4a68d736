"""Builds the decoder of the npm package onnxopt-web, onnxopt/native/web/onnxopt.wasm.

    python tools/build_web.py

The compiler is Debian's clang where the packages clang, lld, wasi-libc, libc++-dev-wasm32 and libclang-rt-dev-wasm32
are installed: that takes ten seconds. Else it is zig (`pip install ziglang`), which compiles the C and C++ libraries
first, for two minutes. The module is as fast and about as small with either.
"""

from __future__ import annotations

import gzip
import os
import shutil
import sys
from pathlib import Path

from cross_build import BUILD, NATIVE, CannotBuildError, Target, configured, said

WEB = NATIVE / "web"
"""The package's folder."""
_TARGET = Target("wasm32-wasi", "Generic", "wasm32")
_LIBRARIES = Path("/usr/lib/wasm32-wasi/libc++.a")
"""Debian's, with C's beside it."""
_UNITY = ("-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12")


def build() -> Path:
    """Builds the module, or what has changed of it, in build/cross/. Raises CannotBuildError."""
    compilers = _clang()
    folder = BUILD / ("wasm-clang" if compilers else "wasm")
    if compilers:
        settings = {
            **{f"CMAKE_{language}_COMPILER": str(compiler) for language, compiler in compilers.items()},
            **{f"CMAKE_{language}_COMPILER_TARGET": _TARGET.zig for language in compilers},
            "CMAKE_BUILD_TYPE": "Release",
            "CMAKE_SYSTEM_NAME": _TARGET.system,
            "CMAKE_SYSTEM_PROCESSOR": _TARGET.processor,
            "CMAKE_TRY_COMPILE_TARGET_TYPE": "STATIC_LIBRARY",
            "ONNXOPT_WERROR": "ON",
        }
        said(["cmake", "-S", NATIVE, "-B", folder, *(f"-D{key}={value}" for key, value in settings.items()), *_UNITY])
    else:
        configured(_TARGET, _TARGET.zig, folder, *_UNITY)
    said(["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1)])
    return folder / "onnxopt.wasm"


def _clang() -> dict[str, Path] | None:
    """Debian's compilers by language; None where they cannot link for WebAssembly."""
    root = _LIBRARIES.resolve().parents[2]  # /usr/lib/llvm-14
    compilers = {"C": root / "bin" / "clang", "CXX": root / "bin" / "clang++"}
    needed = (_LIBRARIES, *compilers.values(), root / "bin" / "wasm-ld")
    return compilers if all(path.exists() for path in needed) and [*root.glob("lib/clang/*/lib/wasi")] else None


def packed_bytes(path: Path) -> int:
    """Bytes of a file as web servers send it, with gzip."""
    return len(gzip.compress(path.read_bytes(), mtime=0))


def main() -> int:
    """See the module."""
    try:
        path = Path(shutil.copy(build(), WEB))
    except CannotBuildError as error:
        print(f"onnxopt.wasm: {error}", file=sys.stderr)
        return 1
    print(f"{path}: {path.stat().st_size:,} bytes, {packed_bytes(path):,} with gzip")
    return 0


if __name__ == "__main__":
    sys.exit(main())
