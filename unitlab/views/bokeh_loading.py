"""Bokeh's JavaScript for a notebook page, from the installed files alone."""

from __future__ import annotations

from typing import Any

from bokeh.resources import Resources

__all__ = ["load_bokeh", "running_kernel"]


def load_bokeh() -> None:
    """Put Bokeh's core into the page of the cell that runs, unless it is there: 1.3 MB, not HoloViews' and Panel's 5.9."""
    if running_kernel() is None:
        return
    from IPython.display import Javascript, display

    code = "\n".join(Resources(mode="inline", components=["bokeh"], log_level="warn").js_raw)
    # BokehJS hangs itself on `this`, which is not the window everywhere
    display(Javascript(f"if (window.Bokeh === undefined) {{\n(function() {{\n{code}\n}}).call(window);\n}}"))


def running_kernel() -> Any:
    """The Jupyter kernel that this runs in, or None."""
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return None
    return getattr(get_ipython(), "kernel", None)
