"""Pages of the documentation site that do not lie in docs/: the documents beside README.md, and the sources that pages
link. MkDocs calls these functions (`hooks` in mkdocs.yml).

A link means the same on the site as in the repository: it is resolved in the repository, then pointed to the page.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "FORMAT.md": "format.md",
    "SECURITY.md": "security.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Documents beside docs/, and their pages."""
_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_NOT_RUN = re.compile(r"^( *)<!-- not run: (.*?) -->$", re.MULTILINE)
_MARKER = re.compile(r"^ *<!--.*?-->$", re.MULTILINE)
_LANGUAGES = {".cc": "cpp", ".h": "cpp", ".hpp": "cpp", ".c": "c", ".py": "python", ".md": "markdown", ".txt": "cmake"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents outside docs/, then the sources that any page links."""
    for document, uri in OUTSIDE.items():
        files.append(File.generated(config, uri, content=(ROOT / document).read_text(encoding="utf-8")))
    linked = {target for file in files.documentation_pages() for target in _targets(_origin(file), file.content_string)}
    for target in sorted(linked):
        if (ROOT / target).is_file() and files.get_file_from_path(_uri(target)) is None:
            files.append(File.generated(config, _uri(target), content=_source(target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The page with its links pointed to pages, and without the markers of what is generated. What was
    not run says so."""
    if page.file.src_uri.startswith("source/"):
        page.meta["search"] = {"exclude": True}
        return markdown
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation"]  # the tabs have it
    origin, here = _origin(page.file), posixpath.dirname(page.file.src_uri)

    def pointed(link: re.Match[str]) -> str:
        target = _resolved(origin, link[2])
        return f"{link[1]}{posixpath.relpath(_uri(target), here or '.')}{link[3]}"

    said = _NOT_RUN.sub(r"\1*Not run by the tests: \2.*\n", markdown)
    return _LINK.sub(pointed, _MARKER.sub("", said))


def _origin(file: File) -> str:
    """Where in the repository a page of the site comes from."""
    named = {uri: document for document, uri in OUTSIDE.items()}
    return named.get(file.src_uri, f"docs/{file.src_uri}")


def _targets(origin: str, markdown: str) -> set[str]:
    """The files that a document links, as paths of the repository."""
    return {_resolved(origin, link[2]) for link in _LINK.finditer(markdown)}


def _resolved(origin: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(origin), link))


def _uri(target: str) -> str:
    """The page, or the file of the site, for a file of the repository."""
    if target in OUTSIDE:
        return OUTSIDE[target]
    inside = PurePosixPath(target)
    return inside.relative_to("docs").as_posix() if inside.parts[0] == "docs" else f"source/{target}.md"


def _source(target: str) -> str:
    """A page that shows a file."""
    text = (ROOT / target).read_text(encoding="utf-8").rstrip()
    name, suffix = PurePosixPath(target).name, PurePosixPath(target).suffix
    return f"# {name}\n\n`{target}`\n\n````{_LANGUAGES.get(suffix, 'text')}\n{text}\n````\n"
