"""What the explorer says of an error, in a sentence."""

from __future__ import annotations

import logging

from unitlab.errors import UnitlabError

log = logging.getLogger(__name__)


def sentence_of(error: Exception) -> str:
    """What to tell of an error: a `UnitlabError` speaks for itself, anything else is unitlab's fault."""
    if isinstance(error, UnitlabError):
        text = str(error)
        return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!", ":")) else ".")
    if isinstance(error, OSError):
        return f"A file cannot be read ({error.strerror or type(error).__name__}: {error.filename or ''})."
    log.error("callback of the explorer", exc_info=error)
    return f"unitlab failed here ({type(error).__name__}: {error}); the kernel's log has the details."
