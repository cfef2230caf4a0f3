"""What the explorer says in words: sentences in place of a view, and errors of callbacks, which widgets would swallow."""

from __future__ import annotations

import functools
import html
import logging
from collections.abc import Callable
from typing import Any

from unitlab.errors import UnitlabError

log = logging.getLogger(__name__)


def as_text(value: object) -> str:
    """Names and ids come from files: shown as text, never as HTML."""
    return html.escape(str(value), quote=True)


def message_html(sentence: str, command: str = "") -> str:
    """A sentence, and the line of code that helps, both given as plain text."""
    code = f"<code>{as_text(command)}</code>" if command else ""
    return f'<div role="note"><p>{as_text(sentence)}</p>{code}</div>'


def sentence_of(error: Exception) -> str:
    """What to tell of an error: a `UnitlabError` speaks for itself, anything else is unitlab's fault."""
    if isinstance(error, UnitlabError):
        text = str(error)
        return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")
    if isinstance(error, OSError):
        return f"A file cannot be read ({error.strerror or type(error).__name__}: {error.filename or ''})."
    return f"unitlab failed here ({type(error).__name__}: {error}); the kernel's log has the details."


def guarded(call: Callable[..., Any], report: Callable[[str], None]) -> Callable[..., Any]:
    """``call`` whose errors go to ``report`` as a sentence: a callback's exception is shown nowhere in a notebook."""

    @functools.wraps(call)
    def guarded_call(*args: Any, **options: Any) -> Any:
        try:
            return call(*args, **options)
        except Exception as error:
            if not isinstance(error, UnitlabError | OSError):
                log.exception("callback of the explorer")
            report(sentence_of(error))
            return None

    return guarded_call
