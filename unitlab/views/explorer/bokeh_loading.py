"""Bokeh's JavaScript for the notebook, from the installed files alone."""

from __future__ import annotations

from bokeh.embed.bundle import bundle_for_objs_and_resources
from bokeh.plotting import figure
from bokeh.resources import INLINE

__all__ = ["load_bokeh"]


def load_bokeh() -> None:
    """Put Bokeh's core into the page of the cell that runs, unless it is there: 1.3 MB instead of HoloViews' and Panel's 5.9.

    It goes into the output of every explorer, so that a saved notebook draws again when it is opened.
    """
    try:
        from IPython import get_ipython
        from IPython.display import Javascript, display
    except ModuleNotFoundError:
        return
    if get_ipython() is None:
        return
    code = "\n".join(bundle_for_objs_and_resources([figure()], INLINE).js_raw)
    display(Javascript(f"if (window.Bokeh === undefined) {{\n(function() {{\n{code}\n}}).call(window);\n}}"))
