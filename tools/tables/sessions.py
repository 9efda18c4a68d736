"""The commands that README.md and the guide show, typed: what they print, and a picture of the first one."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text

from common.pages import ROOT
from tables import Figure, Scope, Table
from train_digits import split

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
    """A working directory with the demo model and its test images, and what earlier commands have written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        environment = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**environment, "PATH": programs, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
        (path / "digits.onnx").write_bytes((ROOT / "models" / "digits.onnx").read_bytes())
        _, _, images, labels = split()
        np.savez(path / "test.npz", input=images, labels=labels)

    def text(self, command: str) -> str:
        """The command, and what it prints into a pipe."""
        done = subprocess.run(command, cwd=self._path, env=self._environment, capture_output=True, text=True,
                              check=True, shell=True)  # fmt: skip
        return "\n".join([f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())])

    def picture(self, command: str) -> str:
        """What it prints on a terminal, as SVG without embedded fonts; the progress, on standard error, is left out."""
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
    """What was printed; nothing at the end, which Linux reports as an error."""
    try:
        return os.read(terminal, 2**16)
    except OSError:
        return b""


@dataclass(frozen=True, slots=True)
class Session:
    """What was printed."""

    picture: str
    """SVG, of `OPTIMIZE`."""
    text: str
    """Of the commands after it."""


def typed(commands: tuple[str, ...], scope: Scope) -> Session:
    """Types `OPTIMIZE`, then the commands."""
    with tempfile.TemporaryDirectory() as name:
        folder = Folder(Path(name))
        return Session(folder.picture(OPTIMIZE), "\n".join(map(folder.text, commands)))


TABLES = tuple(
    Table(
        name,
        "README.md" if name == "files" else "docs/guide.md",
        1,
        partial(typed, commands),
        lambda session: f"```console\n{session.text}\n```",
        figure=Figure("docs/terminal.svg", lambda session: session.picture) if name == "files" else None,
        kind="session",
    )
    for name, commands in SESSIONS.items()
)
