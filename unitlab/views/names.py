"""Names of classes, of any length and script, where room is short."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["distinct", "shortened", "width"]


def width(name: str) -> int:
    """Room that a name takes, in Latin letters: wide characters count twice, combining ones not at all."""
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name
    )


def shortened(name: str, most: int = 28) -> str:
    """The beginning of a name and an ellipsis, where it is wider than ``most`` letters."""
    if width(name) <= most:
        return name
    taken, room = "", most - 1
    for letter in name:
        room -= width(letter)
        if room < 0:
            break
        taken += letter
    return taken + "…"


def distinct(names: Iterable[str]) -> list[str]:
    """Names that were shortened to the same text get a number."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out
