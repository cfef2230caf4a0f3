"""Bokeh's JavaScript for a notebook page, from the installed files alone, and figures there that Python goes on changing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import holoviews as hv
from bokeh.core.serialization import Serializer
from bokeh.document import Document
from bokeh.models import Plot
from bokeh.resources import Resources

from unitlab.views.kernel import running_kernel

FIGURES = Path(__file__).with_name("figures.js")


def load_bokeh() -> None:
    """Put Bokeh's core into the page of the cell that runs, unless it is there: 1.3 MB, not HoloViews' and Panel's 5.9."""
    if running_kernel() is None:
        return
    from IPython.display import Javascript, display

    code = "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)
    # BokehJS hangs itself on `this`, which is not the window everywhere
    load = f"(function() {{\n{code}\n}}).call(window);\n"
    display(Javascript(f"if (window.Bokeh === undefined) {{\n{load}}}\n{FIGURES.read_text(encoding='utf-8')}"))


def without_ground(figure: Any) -> Any:
    """White that is painted first leaves a line on a dark page."""
    for plot in figure.select({"type": Plot}):
        plot.update(background_fill_color=None, border_fill_color=None)
    return figure


class LiveFigure(anywidget.AnyWidget):
    """A `DynamicMap` that Python drives: needs no extension of JupyterLab, as HoloViews' own display does, and no network."""

    _esm = Path(__file__).with_name("live_figure.js")

    def __init__(self, drawn: Any) -> None:
        super().__init__()
        self._document = Document()
        self._plot = hv.renderer("bokeh").get_plot(drawn, doc=self._document)
        self._document.add_root(without_ground(self._plot.state))
        self._document.on_change(self._changed)
        self.on_msg(lambda *_: self.send({"root": self._plot.state.id, "whole": self._document.to_json(deferred=False)}))

    def _changed(self, event: Any) -> None:
        known = self._document.models
        serializer = Serializer(references=known.synced_references, deferred=False)
        self.send({"root": self._plot.state.id, "patch": {"events": serializer.encode([event])}})
        known.flush_synced(lambda model: not serializer.has_ref(model))
