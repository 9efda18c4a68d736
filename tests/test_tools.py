"""Tables are found by being there, stand in their pages, and measure each thing once."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import mlp

import onnxopt
import tables as package
from common import kept, pages, realdata
from common.kept import Kept, downloaded, fresh
from onnxopt.report.json import to_json
from tables import Scope, commands, deployed, schema, tables

TOY = """
from tables import Table
TABLES = (Table("toy", "docs/toy.md", 1, lambda scope: [1, 2], lambda rows: f"{rows}"),)
"""


def test_every_table_has_its_place_in_its_page() -> None:
    for table in tables().values():
        text = (pages.ROOT / table.page).read_text(encoding="utf-8")
        opening, closing = table.markers
        assert text.count(opening) == 1, table.name
        assert closing in text.partition(opening)[2], table.name
        assert table.figure is None or (pages.ROOT / table.figure.path).is_file()


def test_every_generated_place_has_its_table() -> None:
    names = {table.markers[0] for table in tables().values()}
    for page in {table.page for table in tables().values()}:
        lines = (pages.ROOT / page).read_text(encoding="utf-8").splitlines()
        assert {line for line in lines if line.startswith(("<!-- table:", "<!-- session:"))} <= names


def test_a_table_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path)])
    monkeypatch.delitem(sys.modules, "tables.toy", raising=False)
    toy = tables()["toy"]
    assert toy.render(toy.measure(Scope(()))) == "[1, 2]"
    sys.modules.pop("tables.toy")


def test_the_list_names_every_table_its_page_and_its_minutes() -> None:
    command = [sys.executable, str(pages.ROOT / "tools")]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for table in tables().values():
        (line,) = [line for line in listed.splitlines() if line.split()[:2] == [table.page, table.name]]
        assert f"{table.minutes:g} min" in line


def test_an_unknown_table_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["tools", "rations"])
    with pytest.raises(SystemExit) as refused:
        runpy.run_path(str(pages.ROOT / "tools"), run_name="__main__")
    assert refused.value.code == 2
    assert "no table or page is called rations" in capsys.readouterr().err


def counted(log: str, value: object) -> int:
    with Path(log).open("a", encoding="utf-8") as file:
        return file.write(f"{value}\n")


def written(path: Path, log: str) -> None:
    path.write_text(f"{counted(log, 'made')}")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(kept, "FOLDER", tmp_path / "kept")
    log = tmp_path / "log"
    log.touch()
    return log


@pytest.mark.slow
def test_what_is_asked_twice_is_measured_once(log: Path) -> None:
    first, second = Kept(lambda: "1"), Kept(lambda: "2")
    assert [first.once(counted, str(log), 7) for _ in range(3)] == [2, 2, 2]
    assert log.read_text() == "7\n"
    second.once(counted, str(log), 7)
    first.once(counted, str(log), 8)
    assert log.read_text() == "7\n7\n8\n"
    assert first.made(written, str(log)).read_text() == "5"
    assert first.made(written, str(log)).read_text() == "5"
    assert log.read_text() == "7\n7\n8\nmade\n"


@pytest.mark.slow
def test_measurements_belong_to_the_content_of_files(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = log.with_name("net.onnx")
    monkeypatch.setattr(realdata, "path_of", lambda name: model if name == "net" else log.with_name("none"))
    keep = Kept(lambda: "1")
    for content in ("one", "one", "two", "one"):
        model.write_text(content)
        keep.once(counted, str(log), "net")
        keep.once(counted, str(log), model)
    assert len(log.read_text().splitlines()) == 4


def test_tables_share_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ResNet-56 two tables of one page ask for the same controls and the same original."""
    asked: list[set[str]] = []

    def once(self: Kept, function: Callable[..., object], *args: object, **options: object) -> object:
        asked[-1].add(f"{function.__name__} {args} {options}")
        return SimpleNamespace(ratio=1.0, metric=1.0, bits=8)

    monkeypatch.setattr(Kept, "once", once)
    every = tables()
    for name in ("controls", "rate-accuracy-resnet56"):
        asked.append(set())
        every[name].measure(Scope(("resnet56",)))
    assert {call.split()[0] for call in asked[0] & asked[1]} == {"_control", "_original"}


def test_a_table_goes_between_its_markers(tmp_path: Path) -> None:
    page, (opening, closing) = tmp_path / "page.md", tables()["models"].markers
    page.write_text(f"before\n{opening}\nold\n{closing}\nafter\n", encoding="utf-8")
    pages.rewrite(page, "new", opening, closing)
    assert page.read_text(encoding="utf-8") == f"before\n{opening}\nnew\n{closing}\nafter\n"
    page.write_text("no markers", encoding="utf-8")
    with pytest.raises(ValueError, match="no lines"):
        pages.rewrite(page, "", opening, closing)


def test_a_fresh_process_has_a_cache_of_its_own() -> None:
    assert fresh(os.getenv, "XDG_CACHE_HOME") not in (None, os.getenv("XDG_CACHE_HOME"))
    assert fresh(downloaded) == downloaded()


@pytest.mark.parametrize("table", [*commands.TABLES, *schema.TABLES, *deployed.TABLES], ids=lambda table: table.name)
def test_a_reference_is_that_of_the_code(table: package.Table) -> None:
    page = (pages.ROOT / table.page).read_text(encoding="utf-8")
    opening, closing = table.markers
    shown = page.partition(opening)[2].partition(closing)[0]
    assert shown.strip() == table.render(table.measure(Scope(()))).strip()


def test_a_result_is_as_its_schema_says() -> None:
    result = json.loads(to_json(onnxopt.optimize(mlp(), lossless=True)))
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(result, schema.schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**result, "status": "fine"}, schema.schema())
