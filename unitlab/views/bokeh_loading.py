"""Bokeh's JavaScript for a notebook page, from the installed files alone."""

from __future__ import annotations

from pathlib import Path

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
