"""Plays the code of a page of the documents, block by block, as a reader would type it.

    python       runs in one namespace for the whole page; what it prints stands in a block `text` behind it
    sh           commands, each of which has to succeed
    console      commands behind `$ `, and what they print
    <!-- file: NAME -->      the block that follows is written to this file
    <!-- not run: WHY -->    the block that follows is not run
    <!-- run by TEST -->     it is run by this test

Everything else has to be no code: `text`.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.pages import ROOT

_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>[^\n]*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^ *```$", re.M | re.S
)
_OURS = re.compile(r"onnxopt (?P<words>[^|>&]+?)(?: \| (?P<cut>head|tail) -n (?P<count>\d+))?(?: > (?P<file>\S+))?")

Say = Callable[[list[str], Path], str]
"""Runs `onnxopt` with these words in a folder; returns what it prints. Raises AssertionError where it fails."""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block."""

    language: str
    text: str
    marker: str
    """Of the comment before it; empty without one."""
    place: slice
    """Of the text in the page."""


def blocks(page: str) -> Iterator[Block]:
    """All blocks of a page, in order."""
    for found in _BLOCK.finditer(page):
        text = re.sub(f"^{found['indent']}", "", found["text"], flags=re.M)
        yield Block(found["language"], text, found["marker"] or "", slice(found.start("text"), found.end("text")))


def run_by(test: str, page: str) -> list[Block]:
    """The blocks of a page, named as from the repository's root, that this test runs."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in blocks(text) if block.marker == f"run by {test}"]


def play(page: str, folder: Path, say: Say) -> str:
    """Runs the page in a folder that has what the page starts with; returns it with what was printed this time."""
    names, made, end, printed = dict[str, Any](), list[str](), 0, ""
    with contextlib.chdir(folder):
        for block in blocks(page):
            shown = block.text
            kind, _, name = block.marker.partition(": ")
            if kind == "file":
                Path(name).write_text(block.text, encoding="utf-8")
            elif kind == "not run" or kind.startswith(("run by", "session", "tests/")):
                pass
            elif block.language == "python":
                printed = _python(block.text, names)
            elif block.language == "text" and printed:
                shown, printed = printed, ""
            elif block.language in {"sh", "console"}:
                shown = "".join(_typed(command, folder, say, block) for command in _commands(block)) or shown
            made += [page[end : block.place.start], shown if block.language in {"console", "text"} else block.text]
            end = block.place.stop
    return "".join([*made, page[end:]])


def _python(text: str, names: dict[str, Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "the page", "exec"), names)
    return printed.getvalue()


def _commands(block: Block) -> list[str]:
    text = block.text.replace("\\\n", "")
    lines = [line.removeprefix("$ ") for line in text.splitlines() if block.language == "sh" or line.startswith("$ ")]
    return [line for line in lines if line.strip()]


def _expanded(words: list[str]) -> Iterator[str]:
    """As a shell does with names of files."""
    for word in words:
        yield from sorted(map(str, Path().glob(word))) if "*" in word else [word]


def _typed(command: str, folder: Path, say: Say, block: Block) -> str:
    """The command, and what it prints; onnxopt by `say`, anything else by the shell."""
    bare = re.sub(r"\s+#.*", "", command)
    ours = _OURS.fullmatch(bare)
    if ours:
        lines = say(list(_expanded(shlex.split(ours["words"]))), folder).splitlines()
        if ours["file"]:
            (folder / ours["file"]).write_text("\n".join(lines), encoding="utf-8")
            lines = []
        count = int(ours["count"] or len(lines))
        lines = lines[-count:] if ours["cut"] == "tail" else lines[:count]
    else:
        done = subprocess.run(bare, cwd=folder, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (bare, done.stderr)
        lines = done.stdout.splitlines()
    return "\n".join([f"$ {command}", *(line.rstrip() for line in lines), ""]) if block.language == "console" else ""
