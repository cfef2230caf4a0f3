"""How plots reach a notebook page: Bokeh from the installed files, no extension, no CDN, no set-up call."""

from __future__ import annotations

from typing import Any

import holoviews as hv
from bokeh.embed import components
from holoviews.core.options import Store
from holoviews.ipython.display_hooks import pprint_display
from holoviews.streams import LinkedStream, Stream
from holoviews.util import extension

from unitlab.views.bokeh_loading import LiveFigure, load_bokeh, without_ground
from unitlab.views.kernel import running_kernel

__all__: list[str] = []

# page → the cell whose output holds Bokeh for it
_cells: dict[str | None, str | None] = {}


def _load_bokeh_once() -> None:
    """For plots: in one cell's output, and again when that cell runs again and loses its output, or in a page loaded anew.

    A page that is loaded again asks the kernel under another session; what it had loaded is gone, and the output that held it
    may be cleared.
    """
    kernel = running_kernel()
    if kernel is None:
        return
    parent = kernel.get_parent("shell")
    page, cell = parent.get("header", {}).get("session"), parent.get("metadata", {}).get("cellId")
    if page not in _cells or (cell is not None and cell == _cells[page]):
        _cells[page] = cell
        load_bokeh()


def _shown(drawn: Any) -> tuple[dict[str, str], dict[str, Any]] | None:
    """Display of a HoloViews object: those that the page changes are left to HoloViews, the others are drawn by Bokeh alone."""
    linked = [stream for streams in Stream.registry.values() for stream in streams if isinstance(stream, LinkedStream)]
    moving = drawn.traverse(lambda part: part, [hv.HoloMap, hv.DynamicMap])
    asked = any(part.kdims for part in moving) or any(drawn.traverse(lambda part: any(s.source is part for s in linked)))
    if Store.current_backend != "bokeh" or asked or (moving and running_kernel() is None):
        bundle: tuple[dict[str, str], dict[str, Any]] | None = pprint_display(drawn)
        return bundle
    _load_bokeh_once()
    if moving:
        bundle = LiveFigure(drawn)._repr_mimebundle_()
        return bundle
    figure = without_ground(hv.render(drawn, backend="bokeh"))
    script, place = components(figure)
    return {"text/html": f'{place}{script}<script>window.unitlabFigures?.show("{figure.id}")</script>'}, {}


extension("bokeh")
# with several WebGL figures on software rendering the second one stays blank
hv.renderer("bokeh").webgl = False
# HoloViews' own display goes through Panel, which asks a CDN for four style sheets
for kind in (hv.Element, hv.Overlay, hv.NdOverlay, hv.Layout, hv.NdLayout, hv.DynamicMap):
    Store.set_display_hook("html+js", kind, _shown)
