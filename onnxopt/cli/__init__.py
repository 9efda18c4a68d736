"""The command line. Exit codes: 0 success, 1 an error with a message, 2 wrong usage, 3 the contract cannot be met, 130
interrupted, 143 terminated.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = "onnxopt: interrupted; no half-written file is left"


def main() -> None:
    """Entry point. What takes long to import is imported here, so that an interrupt ends that, too, without a trace."""
    interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if interruptible:
        signal.signal(signal.SIGINT, _stop)
    from onnxopt.cli.command import command  # noqa: PLC0415

    if interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    command()


def _stop(number: int, frame: FrameType | None) -> None:
    """Ends the process at once. An exception would pass through modules that are half imported, some of which print
    it."""
    os.write(2, f"{INTERRUPTED}\n".encode())
    os._exit(128 + number)
