"""The one error type of unitlab, and what its messages say of names, of others' errors and of failed writes."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path


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


def write_failure(error: OSError, path: Path) -> UnitlabError:
    """What a failed write means for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UnitlabError(f"no space left on the disk of {path}; free some and run the same again: it goes on from there")
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UnitlabError(f"{path} cannot be written ({error.strerror}); give a folder that can")
    return UnitlabError(f"writing {path} failed: {error.strerror or error}")


def check_seed(seed: int) -> None:
    """Refuse what seeds no random numbers."""
    if isinstance(seed, bool) or not isinstance(seed, Integral) or seed < 0:
        raise UnitlabError(f"seed is {seed!r}; expected a whole number, 0 or more")
