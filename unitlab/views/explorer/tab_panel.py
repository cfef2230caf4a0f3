"""Tabs that are built when they are first opened."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import ipywidgets as W

from unitlab.views.explorer.messages import guarded, message_html
from unitlab.views.explorer.styled import styled
from unitlab.views.explorer.tabs import TABS

if TYPE_CHECKING:
    from unitlab.views.explorer.explorer import Explorer


PACKAGE = "unitlab.views.explorer.tabs"


class TabPanel:
    """``widget``: the tabs, none open. What a tab watches is heard only while it is open, and caught up with on opening."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.titles = list(TABS)
        self.built: set[str] = set()
        self.pages = [styled(W.VBox) for _ in self.titles]
        self.widget = styled(W.Tab, "ul-tabs", children=self.pages, titles=self.titles)
        # ipywidgets opens the first one by itself
        self.widget.selected_index = None
        self.widget.observe(guarded(self._opened, explorer.say), "selected_index")
        explorer.watch(self._discard, "study")

    @property
    def open_title(self) -> str:
        """Title of the open tab, empty for none."""
        place = self.widget.selected_index
        return "" if place is None else self.titles[place]

    def _opened(self, _: Any = None) -> None:
        title = self.open_title
        if not title:
            return
        if title in self.built:
            self.explorer.catch_up(title)
            return
        page = self.pages[self.titles.index(title)]
        page.children = (_message("Building this view …"),)

        def failed(sentence: str) -> None:
            page.children = (_message(sentence),)

        built = guarded(self._build, failed)(title)
        if built is None:
            self.explorer.forget(title)
            return
        page.children = (built,)
        self.built.add(title)

    def _build(self, title: str) -> W.Widget:
        module = importlib.import_module(f"{PACKAGE}.{TABS[title]}")
        with self.explorer.watching_for(title):
            return module.build(self.explorer)

    def _discard(self) -> None:
        """Another study: what was built shows the old one."""
        for title, page in zip(self.titles, self.pages, strict=True):
            self.explorer.forget(title)
            page.children = ()
        self.built.clear()
        self._opened()


def _message(sentence: str) -> W.HTML:
    return styled(W.HTML, "ul-message", message_html(sentence))
