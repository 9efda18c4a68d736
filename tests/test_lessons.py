"""The code on the pages of the documents runs, and prints what they show."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from commanding import run

from common.lessons import blocks, play
from common.stages import STAGES, dress
from tables import CannotMeasureError

ROOT = Path(__file__).resolve().parents[1]


def say(words: list[str], folder: Path) -> str:
    dress(words, folder)
    done = run(*words, cwd=folder)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def without_numbers(page: str) -> list[str]:
    """The printed words: sizes, errors and seconds differ between machines, column widths with them."""
    shown = "\n".join(block.text for block in blocks(page) if block.language in {"console", "text"})
    return re.sub(r"[-+\d.]+|significant|no difference|[kMG]?B", " ", shown).split()


@pytest.mark.slow
@pytest.mark.parametrize("page", STAGES, ids=lambda page: Path(page).stem)
def test_a_page_plays(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    try:
        STAGES[page](tmp_path)
    except CannotMeasureError as error:
        pytest.skip(str(error))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("onnxopt.measure.clock.RACE_SECONDS", 1)
    try:
        played = play((ROOT / page).read_text(encoding="utf-8"), tmp_path, say)
    finally:
        written = [
            name for name, one in sys.modules.items() if str(getattr(one, "__file__", "")).startswith(str(tmp_path))
        ]
        for name in written:
            del sys.modules[name]
    assert without_numbers(played) == without_numbers((ROOT / page).read_text(encoding="utf-8"))


PAGES = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_runs_or_says_why_not(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for block in blocks(text):
        kind, _, what = block.marker.partition(": ")
        if kind.startswith("run by "):
            test = (ROOT / kind.removeprefix("run by ")).read_text(encoding="utf-8")
            assert f'"{page}"' in test, f"{kind.removeprefix('run by ')} does not read {page}: {block}"
        elif block.marker.startswith("tests/toys/"):
            assert (ROOT / block.marker).read_text(encoding="utf-8") == block.text
        elif kind in {"not run", "file", "session"}:
            assert what, block
        elif kind not in {"make", "table:schema"}:
            assert block.language == "text" or (page in STAGES and block.language in {"python", "sh", "console"}), block
    outside = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.M | re.S)
    assert re.findall(r"^ {4,}(?:\$ )?(?:onnxopt|pip|npm|python|make) .*", outside, re.M) == []
