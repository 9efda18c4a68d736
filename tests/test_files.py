"""Files are written whole or not at all, alone or together, and never over what is read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from onnxopt.errors import OnnxoptError
from onnxopt.files import read_text, reading, write_atomically, writing


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "a.txt"
    with write_atomically(place) as waits:
        waits.write_text("new")
        assert not place.exists()
        assert waits.name == "a.txt"
    assert place.read_text() == "new"
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OnnxoptError])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    place = tmp_path / "a.txt"
    place.write_text("old")
    with pytest.raises(error), write_atomically(place) as waits:
        waits.write_text("half")
        raise error
    assert place.read_text() == "old"
    assert list(tmp_path.iterdir()) == [place]


def test_a_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a") as waits:
        waits.write_bytes(b"")
    (tmp_path / "b").write_bytes(b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_data_beside_a_file_goes_with_it(tmp_path: Path) -> None:
    with write_atomically(tmp_path / "a") as waits:
        waits.with_name("a.data").write_text("data")
        waits.write_text("main")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "main", "a.data": "data"}


def test_a_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    longest = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    with write_atomically(longest) as waits:
        waits.write_text("")
    assert longest.exists()
    with pytest.raises(OnnxoptError, match="cannot be written: "), writing({"-o": Path(f"{longest}x")}):
        pytest.fail("the body runs")


def test_files_of_a_block_appear_together(tmp_path: Path) -> None:
    a, b, other = tmp_path / "a", tmp_path / "b", tmp_path / "other"
    with writing({"A": a, "B": b, "C": None}) as waiting:
        assert waiting(a) == a
        with writing({"the output": a}), write_atomically(a) as waits:
            waits.write_text("a")
        with write_atomically(other) as waits:
            waits.write_text("not announced")
        assert waiting(a).read_text() == "a"
        assert not a.exists()
        assert other.exists()
        with write_atomically(b) as waits:
            waits.write_text("b")
    assert (a.read_text(), b.read_text()) == ("a", "b")
    assert len(list(tmp_path.iterdir())) == 3


def test_all_or_none(tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with pytest.raises(ZeroDivisionError), writing({"A": a, "B": b}):
        with write_atomically(a) as waits:
            waits.write_text("a")
        with write_atomically(b) as waits:
            waits.write_text(str(1 // 0))
    assert not list(tmp_path.iterdir())


def refused(outputs: dict[str, Path | None], message: str) -> None:
    with pytest.raises(OnnxoptError, match=message) as caught, writing(outputs):
        pytest.fail("the body runs")
    assert "\n" not in str(caught.value)


def test_places_are_checked_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe")
    refused({"-o": tmp_path / "no" / "a"}, "a: cannot be written: there is no folder .*no; make it, or name another")
    refused({"-o": tmp_path / "file" / "a"}, "cannot be written")
    refused({"-o": tmp_path}, "is a folder; name a file")
    refused({"-o": tmp_path / "pipe"}, "is a pipe; name a file")
    refused({"-o": Path(os.devnull)}, "is a device; name a file")
    same = "a: is named by both --output and --report"
    refused({"--output": tmp_path / "a", "--report": tmp_path / "a"}, same)
    refused({"--output": tmp_path / "a", "--report": tmp_path / "link" / "a"}, same)
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link", "pipe"}


def test_what_is_read_is_not_overwritten(tmp_path: Path) -> None:
    source, link, hard = tmp_path / "source", tmp_path / "link", tmp_path / "hard"
    source.write_text("text")
    link.symlink_to(source)
    hard.hardlink_to(source)
    for output in (source, link, hard):
        for read in (source, link, hard):
            message = f"^{output}: --report would overwrite {read}, which is read"
            with writing({"--report": output}), pytest.raises(OnnxoptError, match=message):
                reading([read])
    with writing({"--report": tmp_path / "new"}):
        reading([source, link])
        assert read_text(source) == "text"
        with pytest.raises(OnnxoptError, match="--report would overwrite"):
            (tmp_path / "new").write_text("")
            read_text(tmp_path / "new")


def test_a_dangling_link_is_replaced_and_not_read(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    with pytest.raises(OnnxoptError, match="link: cannot be read: it is a link to nowhere: No such file"):
        reading([link])
    with write_atomically(link) as waits:
        waits.write_text("file")
    assert not link.is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in {tmp_path / "pipe": "pipe", tmp_path: "folder", Path(os.devnull): "device"}.items():
        with pytest.raises(OnnxoptError, match=f"is a {kind}, expected a file"):
            reading([path])
    (tmp_path / "bytes").write_bytes(b"\xff")
    with pytest.raises(OnnxoptError, match="bytes: cannot be read: it is no UTF-8 text"):
        read_text(tmp_path / "bytes")
