"""Numbers and names as people read them."""

from __future__ import annotations


def size(count: int) -> str:
    """Bytes in the unit that reads best: 1 kB is 1000 bytes."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"


def many(count: int) -> str:
    """A count to three digits."""
    value = float(count)
    for unit in ("", " k", " M"):
        if value < 1000:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g} G"


def shortened(name: str, most: int) -> str:
    """At most so many characters: the ends of a long name tell it from others."""
    return name if len(name) <= most else f"{name[: most // 3]}\N{HORIZONTAL ELLIPSIS}{name[most // 3 + 1 - most :]}"
