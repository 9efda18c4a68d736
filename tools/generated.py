"""What tools that write tables into documents share: the markers, and the machine's name for captions."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

END = "<!-- /table -->"


def rewrite(document: Path, text: str, opening: str) -> None:
    """Puts `text` between `opening` and `END`. Raises ValueError where the document has not both."""
    content = document.read_text(encoding="utf-8")
    head, start, rest = content.partition(opening)
    _, end, tail = rest.partition(END)
    if not (start and end):
        raise ValueError(f"{document}: has no lines {opening} and {END}")
    document.write_text(f"{head}{start}\n{text}\n{end}{tail}", encoding="utf-8")


def machine() -> str:
    """The processor as the system calls it, its cores, the system."""
    name, info = platform.processor() or platform.machine(), Path("/proc/cpuinfo")
    if info.is_file():
        found = dict(re.findall(r"^(model name|cpu family|model)\s*: (.*)$", info.read_text(), re.MULTILINE))
        if "model name" in found:
            name = f"{found['model name']} (family {found['cpu family']}, model {found['model']})"
    return f"{name}, {os.cpu_count()} cores, {platform.system()}"
