"""The errors a user can meet: one sentence each, naming what was found, what was expected and what to do."""

from __future__ import annotations

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
        self.reason = reason
        """Why, for reports."""


class Missed(OnnxoptError):
    """The contract cannot be met; the text says what came nearest."""

    exit_code: ClassVar[int] = 3

    @property
    def reason(self) -> str:
        """Why, for reports: the text without the file's name, and without what the user could do."""
        return str(self).partition(": ")[2].partition("; nothing was written")[0]


def first_line(error: BaseException) -> str:
    """What a foreign error says, in one line."""
    return next(iter(str(error).splitlines()), type(error).__name__)
