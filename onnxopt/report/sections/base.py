"""What a section of the page is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar


class Section(ABC):
    """One section of the page of a result; results are as docs/result.md describes them."""

    name: ClassVar[str]
    """Its anchor in the page."""
    title: ClassVar[str]
    """Its heading, and its link in the navigation."""
    order: ClassVar[int]
    """Sections with smaller numbers come first."""
    template: ClassVar[str]
    """The Jinja template of what follows the heading. It sees the result as ``r``, besides the view."""

    def applies(self, result: Mapping[str, Any]) -> bool:
        """Whether the page of this result has the section."""
        return True

    @abstractmethod
    def view(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What the template shows."""


def beside(module: str) -> str:
    """The template ``name.html`` beside the module ``name.py``, whose ``__file__`` this takes."""
    return Path(module).with_suffix(".html").read_text(encoding="utf-8")
