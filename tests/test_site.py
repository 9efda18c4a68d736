"""The documentation site is built without a warning, and every link in it leads somewhere."""

from __future__ import annotations

import os
import posixpath
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[1]


class Links(HTMLParser):
    """What a page names and what it points to."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.names, self.targets, self.words = set[str](), set[str](), 0
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """See `HTMLParser`."""
        for name, value in attributes:
            if name in {"id", "name"} and value:
                self.names.add(value)
            if name in {"href", "src"} and value:
                self.targets.add(value)

    def handle_data(self, data: str) -> None:
        """See `HTMLParser`."""
        self.words += len(data.split())


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path], cwd=ROOT,
                          env=environment, capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    pages = {page.relative_to(tmp_path).as_posix(): Links(page) for page in tmp_path.rglob("*.html")}
    assert len(pages) > 40
    lost = [
        (page, link)
        for page, links in pages.items()
        for link in links.targets
        if not leads(page, link, pages, tmp_path)
    ]
    assert lost == []


def leads(page: str, link: str, pages: dict[str, Links], site: Path) -> bool:
    """Whether a link of a page leads to a file of the site, and to a name in it. Other hosts are not asked."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc or page == "404.html":
        return True  # the page for what is missing has absolute links
    path = unquote(parts.path)
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), path)) if path else page
    if path.endswith("/") or target == "." or (site / target).is_dir():
        target = posixpath.normpath(posixpath.join(target, "index.html"))
    return (site / target).is_file() and (
        not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].names
    )
