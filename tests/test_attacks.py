"""Hostile files (tests/attacks): each is refused by the reader, and by the command line in one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from attacks.make_attacks import HERE, attacks

from onnxopt import cli, native
from onnxopt.errors import ContainerError

ATTACKS = {attack.name: attack for attack in attacks()}
UNSEEN_BY_THE_READER = {"values_checksum.onnx", "inner_garbage.onnx"}
"""It knows no ONNX, and checks chunk by chunk: `verify` sees these."""


def _verify(path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "argv", ["onnxopt", "verify", str(path)])
    with pytest.raises(SystemExit) as exited:
        cli.main()
    assert exited.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


def test_files_are_those_of_the_generator() -> None:
    assert {path.name for path in HERE.glob("*.onnx")} == set(ATTACKS)
    for attack in ATTACKS.values():
        assert (HERE / attack.name).read_bytes() == attack.content, attack.name


@pytest.mark.parametrize("name", [name for name in ATTACKS if name not in UNSEEN_BY_THE_READER])
def test_reader_refuses(name: str) -> None:
    attack = ATTACKS[name]
    with pytest.raises(ContainerError) as refused, native.Container(attack.content) as container:
        container.decode()
    assert attack.message in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ATTACKS)
def test_verify_says_so_in_one_line(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = _verify(HERE / name, capsys, monkeypatch)
    assert said.startswith("onnxopt: ")
    assert said.count("\n") == 1
    assert said[:-1].isprintable()
    assert name in said


@pytest.mark.parametrize("name", ["bomb_2_48.onnx", "rans_table_empty.onnx", "empty.onnx"])
def test_as_a_process(name: str) -> None:
    command = [sys.executable, "-P", "-c", "from onnxopt.cli import main; main()", "verify", str(HERE / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr
