"""Names of classes where room is short, and how the variables of the schema are shown."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from unitlab.schema import VARIABLES

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


@dataclass(frozen=True)
class Quantity:
    """``label`` and ``unit`` (empty for a plain number) of an axis; shown value = ``factor`` × stored value."""

    label: str
    unit: str
    factor: float

    @property
    def title(self) -> str:
        """Label with its unit, as it stands at an axis."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def quantity(name: str) -> Quantity:
    """A variable as it is shown: of the schema, drops in points of 100; one that the reader brings, by its name."""
    if name not in VARIABLES:
        return Quantity(name, "", 1.0)
    row = VARIABLES[name]
    if "drop" in name and row.units == "1":
        return Quantity(row.long_name, "points", 100.0)
    return Quantity(row.long_name, "" if row.units == "1" else row.units, 1.0)
