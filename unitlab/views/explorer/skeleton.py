"""What stands in a cell until the explorer does; the page learns meanwhile to draw widgets and figures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import ipywidgets as W
from IPython.display import HTML, display

from unitlab.views.explorer.figures import FigureWidget, bare_figure
from unitlab.views.explorer.messages import message
from unitlab.views.explorer.style import STYLE

__all__ = ["skeleton"]

HEIGHTS = (318, 318)
TABLE, IMAGES = '<div class="ul-ghost-table"></div>', f'<div class="ul-ghost-images">{"<i></i>" * 12}</div>'


@contextmanager
def skeleton(name: str) -> Iterator[None]:
    """Show the outline of the explorer in the cell that runs, as long as the body takes."""
    figures = [_figure(height) for height in HEIGHTS]
    rows = [W.HBox(figures), W.HBox([W.HTML(TABLE), W.HTML(IMAGES)])]
    for row in rows:
        row.add_class("ul-row")
    shown = W.VBox([W.HTML(STYLE), message(f"Opening {name} …"), *rows])
    shown.add_class("ul-explorer")
    shown.add_class("ul-waiting")
    place = display(shown, display_id=True)
    try:
        yield
    finally:
        place.update(HTML(""))
        for widget in (shown, *shown.children, *(child for row in rows for child in row.children)):
            widget.close()


def _figure(height: int) -> FigureWidget:
    """A figure that nobody sees: the first one of a page takes half a second to draw, those after it much less."""
    plot = bare_figure("waiting", height, tools="", toolbar_location=None)
    plot.scatter([0.5], [0.5])
    plot.hbar([0.5], right=[0.5])
    return FigureWidget(plot)
