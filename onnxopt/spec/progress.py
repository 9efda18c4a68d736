"""How long-running work reports its progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told what is being done and the share of the work that is done, 0 to 1."""
Advance = Callable[[float], None]
"""Told the share of one piece of work that is done, 0 to 1."""
