"""The errors a user can meet: one sentence each, naming what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class OnnxoptError(Exception):
    """Something about the input, the request or the machine; its text is meant for the user as it is."""

    exit_code: ClassVar[int] = 1


class ContainerError(OnnxoptError):
    """A compressed file is damaged, truncated or of an unknown version."""


class Unsound(OnnxoptError):
    """A rewritten model does not run, or computes something else, although the source runs."""

    def __init__(self, path: object, reason: str) -> None:
        super().__init__(f"{path}: compressed, it is not the same model: {reason}; nothing was written")
        self.path, self.reason = path, reason
        """Of the source; and why, for reports."""

    def __reduce__(self) -> tuple[type[Unsound], tuple[object, str]]:
        return Unsound, (self.path, self.reason)


class Missed(OnnxoptError):
    """The contract cannot be met; the text says what came nearest."""

    exit_code: ClassVar[int] = 3

    @property
    def reason(self) -> str:
        """Why, for reports: the text without the file's name, and without what the user could do."""
        return str(self).partition(": ")[2].partition("; nothing was written")[0]


def meant(word: str, known: Iterable[str]) -> str:
    """Of what is known, what a word that is not may have meant, as the end of a sentence; empty if nothing is near."""
    near = get_close_matches(word, list(known), 1, 0.7)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
