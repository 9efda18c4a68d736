"""Builds the decoder of the npm package onnxopt-web, onnxopt/native/web/onnxopt.wasm, with zig: `pip install ziglang`.

python tools/build_web.py
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


def build() -> Path:
    """Builds the module, or what has changed of it, in build/cross/. Raises CannotBuildError."""
    folder = BUILD / "wasm"
    configured(_TARGET, _TARGET.zig, folder, "-DCMAKE_UNITY_BUILD=ON", "-DCMAKE_UNITY_BUILD_BATCH_SIZE=12")
    said(["cmake", "--build", folder, "--parallel", str(os.cpu_count() or 1)])
    return folder / "onnxopt.wasm"


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
