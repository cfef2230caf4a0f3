"""The page that explorer and report share: plain ES files, joined in this order into one module, style and mark-up."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

__all__ = ["script", "text_of"]

ORDER = ("elements", "state", "pictures", "study", "units", "classes", "images", "table", "linked")


@cache
def text_of(name: str) -> str:
    """A file of this folder."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@cache
def script(*last: str) -> str:
    """The shared files and then ``last``, as one module."""
    return "\n".join(text_of(f"{name}.js") for name in (*ORDER, *last))
