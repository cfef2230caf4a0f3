"""The explorer of a study in a notebook cell: ipywidgets around Bokeh figures, all over one state."""

from unitlab.views.explorer.explorer import Explorer, explore

__all__ = ["Explorer", "explore"]
