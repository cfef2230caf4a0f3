"""ipywidgets that carry the explorer's style classes and cost the page few messages."""

from __future__ import annotations

from typing import Any, TypeVar

import ipywidgets as W

Kind = TypeVar("Kind", bound=W.DOMWidget)

_plain: dict[type[W.Widget], W.Widget] = {}


def styled(kind: type[Kind], classes: str = "", *args: Any, **options: Any) -> Kind:
    """A widget with these style classes from the start, that shares layout and style with all others that are given none:
    a class added later, a layout and a style are a message to the page each."""
    for name in ("layout", "style"):
        if hasattr(kind, name) and name not in options:
            options[name] = _shared(getattr(kind, name).klass)
    return kind(*args, _dom_classes=classes.split(), **options)


def open_shared() -> None:
    """Make what all widgets share: with it, the page reads the scripts that show widgets."""
    for kind in (W.Layout, W.HTML.style.klass):
        _shared(kind)


def _shared(kind: type[W.Widget]) -> W.Widget:
    found = _plain.get(kind)
    if found is None or found.comm is None:  # closed, as by `Widget.close_all`
        found = _plain[kind] = kind()
        found.observe(_refuse_change, found.keys)
    return found


def _refuse_change(change: Any) -> None:
    raise RuntimeError(f"{change.name!r} would change in every widget that shares this; give that widget one of its own")
