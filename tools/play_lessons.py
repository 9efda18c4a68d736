"""Plays pages of the documents and writes what is printed into them.

python tools/play_lessons.py docs/tutorials/*.md
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common.lessons import play
from common.pages import ROOT
from common.stages import STAGES, dress


def say(words: list[str], folder: Path) -> str:
    """`onnxopt` in a process of its own; see `common.lessons.Say`."""
    dress(words, folder)
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run([sys.executable, "-m", "onnxopt.cli", *words], cwd=folder, env=environment,
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def main() -> int:
    """The command line."""
    sys.path.insert(0, "")  # a page may write modules
    parser = argparse.ArgumentParser(description="Plays pages and writes what is printed into them.")
    parser.add_argument("pages", nargs="+", choices=list(STAGES), metavar="PAGE")
    arguments = parser.parse_args()
    for page in arguments.pages:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            STAGES[page](folder)
            file = ROOT / page
            played = play(file.read_text(encoding="utf-8"), folder.resolve(), say)
            file.write_text(played, encoding="utf-8")
            print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
