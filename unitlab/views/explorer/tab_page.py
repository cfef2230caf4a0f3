"""The widget of a tab, with the style sheet that all tabs share."""

from __future__ import annotations

from importlib.resources import files

import ipywidgets as W

from unitlab.views.explorer.styled import styled

STYLE = f"<style>{files(__package__).joinpath('tabs.css').read_text(encoding='utf-8')}</style>"


def tab_page(*children: W.Widget) -> W.VBox:
    """The widget of a tab."""
    return styled(W.VBox, "ul-tab", [styled(W.HTML, "", STYLE), *children])
