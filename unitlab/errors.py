"""The one error type of unitlab, and what its messages say of names, of others' errors and of failed writes."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Collection, Iterable
from itertools import groupby
from numbers import Integral
from pathlib import Path
from textwrap import shorten

LONGEST_RANGES = 60


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


def units_in_ranges(units: Iterable[int]) -> str:
    """ "3, 5, 10-20"."""
    numbered = enumerate(sorted(int(unit) for unit in units))
    runs = [[unit for _, unit in run] for _, run in groupby(numbered, lambda pair: pair[1] - pair[0])]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def units_named(units: Collection[int], channels: int) -> str:
    """ "2 of 64 units (3, 5)", "all 64 units": which of a layer's units."""
    if len(units) == channels:
        return f"all {channels} units"
    return f"{len(units)} of {channels} units ({shorten(units_in_ranges(units), LONGEST_RANGES, placeholder=' …')})"


def before_and_now(before: object, now: object) -> str:
    """ " (float32, now bfloat16)"; nothing of digests, which tell people nothing."""
    texts = [str(before), str(now)]
    if any(re.fullmatch("[0-9a-f]{64}", text) for text in texts):
        return ""
    return f" ({texts[0]:.40}, now {texts[1]:.40})"


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
