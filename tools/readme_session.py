"""Types the README's terminal session and writes what it printed between the markers.

python tools/readme_session.py
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
START, END = "<!-- session -->", "<!-- /session -->"
COMMANDS = (
    "onnxopt optimize digits.onnx -o small.onnx",
    "onnxopt verify small.onnx",
    "onnxopt decompress small.onnx -o plain.onnx",
)


def session() -> str:
    """The commands and what they print, run on a copy of the demo model."""
    scripts = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "digits.onnx").write_bytes((ROOT / "models" / "digits.onnx").read_bytes())
        for command in COMMANDS:
            done = subprocess.run(
                shlex.split(command), cwd=folder, env=environment, capture_output=True, text=True, check=True
            )
            lines += [f"$ {command}", *(line.rstrip() for line in done.stdout.splitlines())]
    return "\n".join(lines)


def main() -> None:
    """Rewrites the session in README.md."""
    readme = ROOT / "README.md"
    head, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, tail = rest.partition(END)
    readme.write_text(f"{head}{START}\n```console\n{session()}\n```\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
