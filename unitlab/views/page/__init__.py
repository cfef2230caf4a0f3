"""The page that explorer and report share: plain ES files, joined in this order into one module, style and mark-up."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files

__all__ = ["loader", "module", "script", "text_of"]

ORDER = (
    "elements", "charts", "state", "pictures", "study", "units", "classes", "images", "table", "linked", "tabs", "tiles",
    "accuracies", "compare", "wall",
)  # fmt: skip
LIVE = ("live", "moved", "category", "group", "try", "take_away", "widget")


@cache
def text_of(name: str) -> str:
    """A file of this folder."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


@cache
def script(*last: str) -> str:
    """The shared files and then ``last``, as one module."""
    return "\n".join(text_of(f"{name}.js") for name in (*ORDER, *last))


@cache
def module() -> str:
    """The module of the widget, with its style and its mark-up inside."""
    held = {"STYLE": text_of("page.css") + text_of("explorer.css"), "VIEWS": text_of("views.html").replace("$finding", "")}
    return "".join(f"const {name} = {json.dumps(text)};\n" for name, text in held.items()) + script(*LIVE)


@cache
def loader() -> str:
    """The small module that each widget brings, and that loads the one of the page."""
    return text_of("loader.js").replace("$digest", hashlib.sha256(module().encode()).hexdigest()[:16])
