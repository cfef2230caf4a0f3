"""Definitions: every number on screen, from the schema."""

from __future__ import annotations

from typing import TYPE_CHECKING

import ipywidgets as W

from unitlab.analysis.attributes import own_attributes
from unitlab.schema import VARIABLES
from unitlab.views.explorer.messages import as_text, guarded
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tab_page import tab_page
from unitlab.views.words import quantity

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


# what the views above show most comes first
LEVELS = ("ablation", "damage", "attributes", "layer", "study")


class Definitions:
    """``widget``: a search field over names and definitions, and what it finds."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.search = styled(W.Text, "ul-search", placeholder="name or word", description="Find", continuous_update=True)
        self.count, self.found = styled(W.HTML, "ul-faint"), styled(W.HTML, "ul-definitions")
        self._entries: list[tuple[str, str]] = []
        self.list_all = guarded(self._list_all, explorer.say)
        self.search.observe(guarded(lambda _: self._show(), explorer.say), "value")
        self.widget = tab_page(styled(W.HBox, "ul-line", [self.search, self.count]), self.found)
        self.list_all()
        explorer.watch(self.list_all, "measures")

    def _list_all(self) -> None:
        study = self.explorer.study
        held = {*map(str, study.ds.variables), *map(str, study.measures.variables)}
        self._entries = []
        names = [name for name in VARIABLES if name in held and VARIABLES[name].level in LEVELS]
        for name in sorted(names, key=lambda name: LEVELS.index(VARIABLES[name].level)):
            row = VARIABLES[name]
            dims = f"({', '.join(row.dims)})" if row.dims else ""
            html = (
                f"<div><dt>{as_text(quantity(name).title)} <code>{as_text(name)}{as_text(dims)}</code></dt>"
                f"<dd>{as_text(row.comment)}</dd></div>"
            )
            self._entries.append((f"{name} {row.long_name} {row.comment}".casefold(), html))
        for name in sorted(own_attributes(study.ds)):
            html = f"<div><dt>{as_text(name)} <code>(unit)</code></dt><dd>Comes with the dataset that was given.</dd></div>"
            self._entries.append((name.casefold(), html))
        self._show()

    def _show(self) -> None:
        words = self.search.value.casefold().split()
        found = [html for text, html in self._entries if all(word in text for word in words)]
        self.count.value = as_text(f"{len(found)} of {len(self._entries)} definitions")
        self.found.value = f"<dl>{''.join(found)}</dl>" if found else '<p class="ul-faint">No definition has these words.</p>'


def build(explorer: Explorer) -> W.Widget:
    """The tab."""
    return Definitions(explorer).widget
