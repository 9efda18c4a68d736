"""The command line run in this process, which takes no time to start."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import onnx

from onnxopt import cli


@dataclass(frozen=True)
class Done:
    """What a command left behind, named as `subprocess` names it."""

    returncode: int
    stdout: str
    stderr: str


def unstamped(file: Path) -> bytes:
    """A model's bytes without what says which request made it."""
    model = onnx.load(file)
    del model.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def run(*words: object, cwd: Path | None = None) -> Done:
    """Runs `onnxopt` with these words, in an 80-column terminal."""
    out, error, code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as entered:
        entered.enter_context(mock.patch.object(sys, "argv", ["onnxopt", *map(str, words)]))
        entered.enter_context(mock.patch.dict("os.environ", {"COLUMNS": "80"}))
        entered.enter_context(contextlib.redirect_stdout(out))
        entered.enter_context(contextlib.redirect_stderr(error))
        if cwd:
            entered.enter_context(contextlib.chdir(cwd))
        try:
            cli.main()
        except SystemExit as end:
            assert end.code is None or isinstance(end.code, int), end.code
            code = end.code or 0
    return Done(code, out.getvalue(), error.getvalue())


def refused(done: Done, *words: str) -> None:
    """Checks that the command wrote nothing but one sentence that holds these words."""
    assert done.returncode == 1, done
    assert not done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("onnxopt: ")
    for word in words:
        assert word in line, (word, line)
