"""Lists of units as people type them."""

from __future__ import annotations

from unitlab.errors import UnitlabError

__all__ = ["units_in"]


def units_in(text: str, what: str) -> list[int]:
    """Units in "3,5,10-20", in that order; ``what`` names the text in the error.

    Raises
    ------
    UnitlabError
        The text is no list of units.
    """
    units: list[int] = []
    for part in text.split(","):
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
            raise UnitlabError(f"{what} {text!r} is not a list of units; give something like 3,5,10-20")
        units += range(int(first), int(last if dash else first) + 1)
    return units
