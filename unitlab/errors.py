"""The one error type of unitlab, and what its messages say of names and of others' errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["UnitlabError", "nearest_names", "what_it_says"]


class UnitlabError(ValueError):
    """Something given to unitlab cannot be used; the message says what was given, what is valid and what to do."""


def nearest_names(given: str, valid: Iterable[str], *, most: int = 3) -> str:
    """Sentence that suggests the valid names nearest to ``given`` (or lists the first few)."""
    names = list(dict.fromkeys(str(name) for name in valid))
    if not names:
        return "There are none."
    near = difflib.get_close_matches(str(given), names, n=most, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(name) for name in near) + "?"
    shown = ", ".join(repr(name) for name in names[:8])
    return f"Valid: {shown}{', …' if len(names) > 8 else ''}."


def what_it_says(error: BaseException) -> str:
    """Kind and first line of another's error; many say nothing but their kind."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
