"""Names of classes, of any length and script, where room is short."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

__all__ = ["distinct", "isolated", "shortened", "width"]

FROM_THE_RIGHT = {"R", "AL", "RLE", "RLO", "RLI", "LRE", "LRO", "LRI", "FSI"}


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


def isolated(name: str) -> str:
    """A name among other text: one written from the right must not turn around what stands beside it.

    Between Unicode's first strong isolate and its end, which show nothing; a name of one direction is left as it is.
    """
    return f"\u2068{name}\u2069" if any(unicodedata.bidirectional(letter) in FROM_THE_RIGHT for letter in name) else name


def distinct(names: Iterable[str]) -> list[str]:
    """Names that were shortened to the same text get a number."""
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} #{seen[name]}")
    return out
