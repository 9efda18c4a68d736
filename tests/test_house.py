"""The house rules: no file is long, the top level of the package stays as it is, and every room says what it is for."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "onnxopt"
ROOMS = sorted(PACKAGE.rglob("__init__.py"))
FOREIGN = (PACKAGE / "native" / "third_party", PACKAGE / "native" / "web" / "node_modules", PACKAGE / "lib")
SOURCES = {".py", ".cc", ".h", ".html", ".css"}


def test_no_file_has_over_400_lines() -> None:
    files = [path for top in (PACKAGE, ROOT / "tests", ROOT / "tools") for path in top.rglob("*")]
    own = [path for path in files if path.suffix in SOURCES and not any(map(path.is_relative_to, FOREIGN))]
    assert own
    lines = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in own}
    assert {path: count for path, count in lines.items() if count > 400} == {}


def test_the_top_level_holds_five_modules_and_folders() -> None:
    files = {path.name for path in PACKAGE.iterdir() if not path.is_dir()}
    assert files - {"py.typed", "__main__.py"} == {"__init__.py", "api.py", "request.py", "encoding.py", "errors.py"}


def test_every_room_says_what_it_is_for() -> None:
    said = {str(room.parent.relative_to(ROOT)): ast.get_docstring(ast.parse(room.read_bytes())) for room in ROOMS}
    assert [room for room, docstring in said.items() if not docstring] == []
