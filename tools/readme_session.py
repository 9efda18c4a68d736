"""Types the commands that README.md shows: their texts go between its markers, a picture of the first into docs.

python tools/readme_session.py
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from generated import rewrite
from rich.console import Console
from rich.text import Text
from train_digits import split

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "terminal.svg"
OPTIMIZE = "onnxopt optimize digits.onnx -o small.onnx"
SESSIONS = {
    "files": ("onnxopt verify small.onnx", "onnxopt decompress small.onnx -o plain.onnx"),
    "evaluate": ("onnxopt evaluate digits.onnx small.onnx --data test.npz | head -n 12",),
    "benchmark": ("onnxopt benchmark digits.onnx small.onnx --threads 1 --batch 1 | head -n 12",),
}
"""Commands by the name in their marker."""
WIDTH = 80


class Folder:
    """Where commands are typed: it has the demo model and its test images, and what commands before have written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**environment, "PATH": programs, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        (path / "digits.onnx").write_bytes((ROOT / "models" / "digits.onnx").read_bytes())
        _, _, images, labels = split()
        np.savez(path / "test.npz", input=images, labels=labels)

    def text(self, command: str) -> str:
        """What a command prints into a pipe, after a line with itself."""
        done = subprocess.run(command, cwd=self._path, env=self._environment, capture_output=True, text=True,
                              check=True, shell=True)  # fmt: skip
        return "\n".join([f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())])

    def picture(self, command: str) -> str:
        """What it prints on a terminal, as SVG without fonts of its own; progress, on standard error, is left out."""
        ours, terminal = pty.openpty()
        with subprocess.Popen(command, cwd=self._path, env=self._environment, stdout=terminal, shell=True) as process:
            os.close(terminal)
            printed = b""
            while part := _read(ours):
                printed += part
        os.close(ours)
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        console = Console(record=True, width=WIDTH, file=io.StringIO())
        lines = printed.decode().replace("\r\n", "\n").rstrip()
        console.print(Text.from_ansi(f"$ {command}\n\n{lines}"))
        svg = console.export_svg(title="onnxopt", unique_id="terminal")
        return re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)


def _read(terminal: int) -> bytes:
    """What came; nothing at the end, which Linux calls an error."""
    try:
        return os.read(terminal, 2**16)
    except OSError:
        return b""


def main() -> None:
    """Rewrites the sessions in README.md, and the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        PICTURE.write_text(folder.picture(OPTIMIZE), encoding="utf-8")
        for session, commands in SESSIONS.items():
            text = "\n".join(map(folder.text, commands))
            opening, closing = f"<!-- session:{session} -->", "<!-- /session -->"
            rewrite(ROOT / "README.md", f"```console\n{text}\n```", opening, closing)


if __name__ == "__main__":
    main()
